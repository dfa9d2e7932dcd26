"""What the families with a transformer over patches share: flow matching, and latents that are shifted and scaled."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.models.family import ModelSource
from finetune.objectives.flow_matching import FlowMatching

PATCH = 2
"""Latents along each side of a patch, of which the transformer sees one token each."""


def flow_objective(scheduler: Any, options: LossConfig, title: str) -> FlowMatching:
    """Returns the objective that the scheduler states; an option that contradicts it is a ValueError."""
    if options.prediction_type not in (None, "flow_prediction"):
        raise ValueError(
            f"loss.prediction_type: got {options.prediction_type}, but {title} is trained by flow matching. Remove the "
            "option."
        )
    return FlowMatching.from_scheduler(scheduler.config, options, patch=PATCH)


def refuse_unshifted(vae: Any, source: ModelSource) -> None:
    """Raises ValueError where the autoencoder does not say how its latents are shifted."""
    if vae.config.shift_factor is None:
        raise ValueError(
            f"model.source: vae/config.json of {source.configs} has no shift_factor, expected a number. Put back what "
            "was published with the model."
        )


def shifted_latents(vae: Any, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Returns latents [B C H W] of pixels [B 3 h w], sampled and brought to a mean of about 0 and a standard deviation
    of about 1."""
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample(list(generators))
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor
