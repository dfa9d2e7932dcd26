"""What a network is asked to do with a batch, and how far it is from it; training and validation ask the same way.

Axes: B batch, C channels, H W latent height and width; pictures are [B 3 h w] in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from finetune.data.dataset import Batch
from finetune.data.encode import Encoder
from finetune.models.base import Prompts
from finetune.noise import Noise
from finetune.objectives import Objective, denoising_loss, reconstruction_loss


@dataclass(frozen=True)
class Losses:
    """Of each sample: the unweighted loss, the weight that the objective gives it, and its timestep; all [B]."""

    unweighted: Tensor
    weight: Tensor
    timesteps: Tensor


class Task(Protocol):
    """One kind of loss, for a network that the tuning method has made."""

    def inputs(self, batch: Batch) -> Any:
        """Returns what `losses` needs of the batch, encoded once."""
        ...

    def losses(self, network: Callable[..., Any], inputs: Any, u: Tensor, noise: Noise) -> Losses:
        """Returns the losses for uniforms u [B] in [0, 1), which choose the timesteps, and for noise."""
        ...

    def plain(self) -> "Task":
        """Returns the task as validation measures it: plain noise and squared errors at all timesteps."""
        ...


@dataclass(frozen=True)
class Denoising:
    """Predict what the objective asks for from noisy latents and the prompt."""

    objective: Objective
    encoder: Encoder

    def inputs(self, batch: Batch) -> tuple[Tensor, Prompts]:
        return self.encoder.latents(batch), self.encoder.prompts(batch)

    def losses(self, network: Callable[..., Any], inputs: tuple[Tensor, Prompts], u: Tensor, noise: Noise) -> Losses:
        clean, prompts = inputs
        t = self.objective.sample_timesteps(u).to(clean.device)
        drawn, in_input = self.objective.draw_noise(noise, clean)
        unweighted = denoising_loss(
            self.objective, lambda noisy, t: network(noisy, t, prompts), clean, drawn, t, noise_in_input=in_input
        )
        return Losses(unweighted, self.objective.weight(t), t)

    def plain(self) -> Self:
        return replace(self, objective=self.objective.plain())


@dataclass(frozen=True)
class Reconstruction:
    """Give a picture back after squeezing it through the autoencoder's latents."""

    latent_channels: int
    pixel_multiple: int
    """Pixels a latent stands for, along each side."""
    kl_weight: float
    edge_weight: float

    def inputs(self, batch: Batch) -> Tensor:
        assert batch.pixels is not None, "pictures are not cached as latents while their encoder is trained"
        return batch.pixels

    def losses(self, network: Callable[..., Any], inputs: Tensor, u: Tensor, noise: Noise) -> Losses:
        height, width = (side // self.pixel_multiple for side in inputs.shape[2:])
        drawn = noise((self.latent_channels, height, width)).to(inputs.device)
        decoded, mean, logvar = network(inputs, drawn)
        losses = reconstruction_loss(
            decoded, inputs, mean, logvar, kl_weight=self.kl_weight, edge_weight=self.edge_weight
        )
        return Losses(losses, torch.ones_like(losses), torch.zeros_like(losses, dtype=torch.long))

    def plain(self) -> Self:
        return self
