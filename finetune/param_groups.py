"""Which trained parameters share a learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from finetune.config_optim import OptimConfig


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with one learning rate."""

    name: str
    """denoiser, text_encoder, or what else a method trains; the rate is logged as lr_NAME, that of the first group as
    lr."""
    parameters: Sequence[nn.Parameter]
    lr: float
    """Peak learning rate."""
    weight_decay: float | None = None
    """None takes optim.weight_decay."""


def usual_groups(network: nn.Module, config: OptimConfig) -> list[ParamGroup]:
    """Returns the trainable parameters outside `text_encoders`, then those inside, each where there are any."""
    rates = {"denoiser": config.lr, "text_encoder": config.text_encoder_lr or config.lr}
    found: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            found["text_encoder" if key.startswith("text_encoders.") else "denoiser"].append(parameter)
    return [ParamGroup(name, found[name], rate) for name, rate in rates.items() if found[name]]
