"""Reconstruction of an image from the autoencoder's latents. Images are [B 3 h w] in [-1, 1]; latents [B C H W]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.config.pretrain import AutoencoderConfig
from finetune.objectives.diffusion import reconstruction_loss
from finetune.objectives.noise import Noise
from finetune.tasks.base import SampleLosses, TaskContext


@dataclass(frozen=True)
class Reconstruction:
    """The task to reconstruct an image from the autoencoder's latents."""

    latent_channels: int
    pixel_multiple: int
    """Pixels per latent, along each side."""
    kl_weight: float
    edge_weight: float

    def inputs(self, batch: Batch) -> Tensor:
        assert batch.pixels is not None, "images are not cached as latents while their encoder is trained"
        return batch.pixels

    def losses(
        self, network: Callable[[Tensor, Tensor], tuple[Tensor, ...]], inputs: Tensor, u: Tensor, noise: Noise
    ) -> SampleLosses:
        height, width = (side // self.pixel_multiple for side in inputs.shape[2:])
        drawn = noise((self.latent_channels, height, width)).to(inputs.device)
        decoded, mean, logvar = network(inputs, drawn)
        losses = reconstruction_loss(
            decoded, inputs, mean, logvar, kl_weight=self.kl_weight, edge_weight=self.edge_weight
        )
        return SampleLosses(losses, torch.ones_like(losses), torch.zeros_like(losses, dtype=torch.long))

    def plain(self) -> Self:
        return self


@dataclass(frozen=True)
class MakeReconstruction:
    """A factory of the task with these weights of its loss."""

    options: AutoencoderConfig
    prompts: tuple[str, ...] = ()

    def __call__(self, context: TaskContext) -> Reconstruction:
        vae, family = context.encoder.components.vae, context.encoder.family
        channels, multiple = vae.config.latent_channels, family.pixels_per_latent(vae)
        return Reconstruction(channels, multiple, self.options.kl_weight, self.options.edge_weight)
