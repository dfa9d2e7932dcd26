"""An optimizer that steps one parameter at a time. It does so in float32, or in the backward pass."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finetune.optim.paged_state import load_beside, place_state
from finetune.optim.rounding import compensated, random_bits, round_compensated, round_stochastically

LINALG = cast("Any", torch.linalg)
"""torch gives the functions of this module no types."""
COMPENSATION = "compensation"
"""Key of Kahan's buffer in a parameter's optimizer state."""


class PerParameterOptimizer(torch.optim.Optimizer):
    """Steps of another optimizer, one parameter at a time.

    It shares the groups and state of the other one, which sees weights in bfloat16 as float32, with float32 gradients,
    and so keeps its own moments as for float32 weights. In the backward pass each gradient is freed before the next is
    complete. The randomness of rounding is a function of the step in `set_step`.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        weights: Literal["fp32", "bf16_stochastic", "bf16_kahan"],
        seed: int,
        *,
        in_backward: bool,
    ) -> None:
        # The state is the inner optimizer's, as in Accelerate's own wrapper: Optimizer.__init__ would make another.
        self.inner, self.weights, self.seed, self.in_backward = inner, weights, seed, in_backward
        self.places: dict[nn.Parameter, tuple[int, int]] = {
            parameter: (number, index)
            for number, group in enumerate(inner.param_groups)
            for index, parameter in enumerate(group["params"])
        }
        self.norms: dict[nn.Parameter, Tensor] = {}
        self.step_number = 0
        self._share()
        if in_backward:
            for parameter in self.places:
                cast("Any", parameter).register_post_accumulate_grad_hook(self._step_in_backward)

    def _share(self) -> None:
        self.param_groups, self.state, self.defaults = self.inner.param_groups, self.inner.state, self.inner.defaults

    def set_step(self, step: int) -> None:
        """Set the step of the next update."""
        self.step_number = step

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the weights that have a gradient, and free it. With in_backward none is left."""
        for parameter in self.places:
            if parameter.grad is not None:
                self._step_parameter(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.places:
            parameter.grad = None

    def take_grad_norm(self) -> Tensor:
        """Return the norm of the last backward pass's gradients, nan without one."""
        norms = [self.norms.pop(parameter) for parameter in self.places if parameter in self.norms]
        return LINALG.vector_norm(torch.stack(norms)) if norms else torch.tensor(torch.nan)

    @torch.no_grad()
    def _step_in_backward(self, parameter: nn.Parameter) -> None:
        self.norms[parameter] = LINALG.vector_norm(parameter.grad, dtype=torch.float32)
        self._step_parameter(parameter)

    def _step_parameter(self, parameter: nn.Parameter) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if self.weights == "fp32":
            self._step_alone(parameter, *self.places[parameter])
        else:
            self._step_rounded(parameter, gradient)
        parameter.grad = None

    def _step_rounded(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        number, index = self.places[parameter]
        states, group = self.inner.state, self.inner.param_groups[number]
        state = states.pop(parameter, {})
        # Another parameter, since one whose dtype changes for a moment loses the hooks of DistributedDataParallel.
        stand_in = nn.Parameter(compensated(parameter, state.get(COMPENSATION)))
        stand_in.grad = gradient.float()
        states[stand_in] = state
        self._step_alone(stand_in, number, index)
        state = states[parameter] = states.pop(stand_in)
        if self.weights == "bf16_stochastic":
            bits = random_bits(parameter, self.seed, self.step_number, group["name"], index)
            parameter.copy_(round_stochastically(stand_in.detach(), bits))
        else:
            weight, state[COMPENSATION] = round_compensated(stand_in.detach())
            parameter.copy_(weight)

    def _step_alone(self, parameter: nn.Parameter, number: int, index: int) -> None:
        groups = self.inner.param_groups
        self.inner.param_groups = [{**groups[number], "params": [parameter]}]
        try:
            self.inner.step()
        finally:
            self.inner.param_groups = groups

    def state_dict(self) -> dict[str, object]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Load a state dict. Moments stay float32 where weights are bfloat16. Optimizers cast state to the dtype of its
        weight, so they see float32 weights meanwhile."""
        whole = [group["params"] for group in self.inner.param_groups]
        shown = [[nn.Parameter(torch.empty(0, device=p.device)) for p in parameters] for parameters in whole]
        for group, stand_ins in zip(self.inner.param_groups, shown, strict=True):
            group["params"] = stand_ins
        try:
            load_beside(self.inner, state_dict)
        finally:
            for group, parameters, stand_ins in zip(self.inner.param_groups, whole, shown, strict=True):
                group["params"] = parameters
                for parameter, stand_in in zip(parameters, stand_ins, strict=True):
                    if stand_in in self.inner.state:
                        self.inner.state[parameter] = self.inner.state.pop(stand_in)
        for state in self.inner.state.values():
            if COMPENSATION in state:
                state[COMPENSATION] = state[COMPENSATION].bfloat16()
        place_state(self.inner)
        self._share()
