"""Which trained parameters share a learning rate."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.config.optim import OptimConfig


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with one learning rate."""

    name: str
    """denoiser, text_encoder, or another part that a method trains; the rate is logged as lr_NAME, that of the first
    group as lr."""
    parameters: Sequence[nn.Parameter]
    lr: float
    """Peak learning rate."""
    weight_decay: float | None = None
    """None means optim.weight_decay."""
    is_table: bool = False
    """Its matrices are looked up by row, such as embeddings, so their singular values mean nothing."""


def is_held(name: str, step: int, text_encoder_steps: int | None) -> bool:
    """Check whether a group is frozen at step 0, 1, ... The text encoder is after its steps."""
    return name.startswith("text_encoder") and text_encoder_steps is not None and step >= text_encoder_steps


def hold(groups: Iterable[dict[str, Any]], step: int, text_encoder_steps: int | None) -> None:
    """Remove the gradients of an optimizer's frozen groups. Optimizers skip weights without a gradient, along with
    their weight decay and moments. The groups keep `requires_grad`, which decides what is saved, and which
    DistributedDataParallel reads only once."""
    for group in groups:
        if is_held(group["name"], step, text_encoder_steps):
            for parameter in group["params"]:
                parameter.grad = None


def usual_groups(network: nn.Module, config: OptimConfig) -> list[ParamGroup]:
    """Return one group of trainable parameters outside `text_encoders` and one inside. For an optimizer of matrices the
    embeddings of each are groups of their own. Empty ones are omitted."""
    rates = {"denoiser": config.lr, "text_encoder": config.text_encoder_lr or config.lr}
    tables = {module.weight for module in network.modules() if isinstance(module, nn.Embedding)}
    kinds = itertools.product(rates, (False, True))
    found: dict[tuple[str, bool], list[nn.Parameter]] = {kind: [] for kind in kinds}
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            name = "text_encoder" if key.startswith("text_encoders.") else "denoiser"
            found[name, config.facts.is_for_matrices and parameter in tables].append(parameter)
    return [
        ParamGroup(f"{name}_embeddings" if is_table else name, parameters, rates[name], is_table=is_table)
        for (name, is_table), parameters in found.items()
        if parameters
    ]
