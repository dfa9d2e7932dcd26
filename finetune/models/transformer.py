"""The common parts of families with a transformer over patches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.models.family import ModelSource
from finetune.models.interfaces import VAE, Scheduler
from finetune.objectives.flow_matching import FlowMatching

PATCH = 2
"""Latents along each side of a patch, of which the transformer sees one token each."""


def flow_objective(scheduler: Scheduler, options: LossConfig, title: str) -> FlowMatching:
    """Read the objective from the scheduler. An option that contradicts it is a ValueError."""
    if options.prediction_type not in (None, "flow_prediction"):
        raise ValueError(
            f"loss.prediction_type: got {options.prediction_type}, but {title} is trained by flow matching. Remove the "
            "option."
        )
    return FlowMatching.from_scheduler(scheduler.config, options, patch=PATCH)


def refuse_unshifted(vae: VAE, source: ModelSource) -> None:
    """Refuse an autoencoder whose config lacks the shift of latents."""
    if vae.config.shift_factor is None:
        raise ValueError(
            f"model.source: vae/config.json of {source.configs} has no shift_factor, expected a number. Put back what "
            "was published with the model."
        )


def shifted_latents(vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample latents [B C H W] of pixels [B 3 h w]. They have a mean of about 0 and a standard deviation of about 1."""
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample(list(generators))
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor
