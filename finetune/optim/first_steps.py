"""Alarms of a run's first steps. It watches weights that do not train, and gradients that explode.

Both are otherwise found at the end, in images that look like the base model's, or like nothing.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.optim.sharded import local
from finetune.plurals import plural

NUM_WATCHED = 10
"""Steps that are watched."""
NUM_SAMPLED = 16
"""Values of each parameter that are compared."""
NUM_BEFORE = 2
"""Steps whose gradients are the measure of later ones."""
NUM_UNTIL_ALL = 2
"""Updates after which every parameter has a gradient; the first matrices of a LoRA have none before the second's."""
LARGEST_GROWTH = 100.0
"""Of the gradient norm. On single images it varies by a factor of ten or so."""


@dataclass(frozen=True)
class _Group:
    """A parameter group as it was before the first step."""

    name: str
    parameters: Sequence[nn.Parameter]
    samples: Sequence[Tensor]

    @staticmethod
    def of(group: dict[str, Any]) -> "_Group":
        parameters = list(group["params"])
        return _Group(group["name"], parameters, [sample(parameter) for parameter in parameters])

    def has_moved(self) -> bool:
        """True if any of the values compared has changed. Biases of zero do not count: they take the smallest update,
        which others lose in rounding. Matrices of zeros do, as a LoRA begins with them."""
        for parameter, before in zip(self.parameters, self.samples, strict=True):
            changed = sample(parameter) != before
            if bool(changed.any() if parameter.ndim > 1 and not before.any() else changed[before != 0].any()):
                return True
        return False


class FirstSteps:
    """Watches the first steps after a start. It must see a gradient of every parameter, and a change of every group.

    A part of a network may lose its gradient without an error: a U-Net whose compiled code was wrong trained its outer
    layers alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, in_backward: bool) -> None:
        """Keep samples of the weights. Gradients that are used `in_backward` cannot be seen."""
        self._optimizer = optimizer
        self._groups = [_Group.of(group) for group in optimizer.param_groups]
        everything = {id(parameter) for group in self._groups for parameter in group.parameters}
        self._with_gradient = everything if in_backward else set[int]()
        self._with_rate = Counter[str]()
        self._norms: list[float] = []
        self._is_told = False

    def see_gradients(self) -> None:
        """Note which parameters have gradients, and a rate to use them at. Called between backward and update."""
        self._with_rate.update(group["name"] for group in self._optimizer.param_groups if group["lr"] > 0)
        for parameter in (parameter for group in self._groups for parameter in group.parameters):
            if (
                id(parameter) not in self._with_gradient
                and parameter.grad is not None
                and bool(local(parameter.grad).any())
            ):
                self._with_gradient.add(id(parameter))

    def alarms(self, step: int, grad_norm: float, lr: float, *, is_last: bool) -> list[str]:
        """List what is wrong after a step since the start. Each is told once."""
        found = [] if self._is_told else self._explosion(step, grad_norm, lr)
        self._is_told |= bool(found)
        self._norms.append(grad_norm)
        return found + (self._standstill(step) if is_last else [])

    def _explosion(self, step: int, grad_norm: float, lr: float) -> list[str]:
        if len(self._norms) < NUM_BEFORE:
            return []
        usual = statistics.median(self._norms)
        if not usual or grad_norm <= LARGEST_GROWTH * usual:
            return []
        return [
            f"the gradient norm is {grad_norm:.3g} in step {step}, and was {usual:.3g} before: training "
            f"diverges. Stop it, lower optim.lr (now {lr:.3g}), or raise optim.warmup_steps."
        ]

    def _standstill(self, step: int) -> list[str]:
        found: list[str] = []
        for group in self._groups:
            if group.name not in self._with_rate:
                continue
            count = plural(len(group.parameters), "parameter")
            missing = sum(id(parameter) not in self._with_gradient for parameter in group.parameters)
            is_whole = missing == len(group.parameters)
            if is_whole or (missing and self._with_rate[group.name] > NUM_UNTIL_ALL):
                some = f"the {count}" if is_whole else f"{missing:,} of the {count}"
                found.append(
                    f"no gradient has reached {some} of {group.name} in {step} steps, so they stay as they are. "
                    "Check that the loss depends on the layers that are trained; with fp16, use bf16."
                )
            elif not group.has_moved():
                found.append(
                    f"the {count} of {group.name} have not changed in {step} steps. Their updates are too small for "
                    "the number format: raise optim.lr, or use --optim.weights fp32."
                )
        return found


def sample(parameter: Tensor) -> Tensor:
    """Copy some values of a parameter. They are spread over it, or over this process's part of it."""
    values = local(parameter.detach()).flatten()
    return values[:: max(1, len(values) // NUM_SAMPLED)][:NUM_SAMPLED].clone()
