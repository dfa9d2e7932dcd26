"""What a network is asked to do with a batch, and how far it is from it; training and validation ask the same way.

Axes: B batch, C channels, H W latent height and width; pictures are [B 3 h w] in [-1, 1].
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from finetune.batches.dataset import Batch
from finetune.batches.encoder import Encoder
from finetune.models.family import Prompts
from finetune.objectives.diffusion import Objective, denoising_loss, reconstruction_loss
from finetune.objectives.mask import LossMask, Predict
from finetune.objectives.noise import Noise


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
class Masking:
    """How a run trains on parts of its pictures."""

    outside_weight: float
    prior_weight: float
    untouched: Callable[[], AbstractContextManager[None]]
    """Within it, the network predicts what the untouched model does."""

    def of(self, inside: Tensor | None, predict: Predict) -> LossMask:
        """Returns the mask of a batch, of which `inside` [B 1 H W] is trained on."""
        assert inside is not None, "a run with masks gives every batch one"

        def predict_untouched(noisy: Tensor, t: Tensor) -> Tensor:
            with self.untouched():
                return predict(noisy, t)

        return LossMask(inside, self.outside_weight, self.prior_weight, predict_untouched)


@dataclass(frozen=True)
class Denoising:
    """Predict what the objective asks for from noisy latents and the prompt."""

    objective: Objective
    encoder: Encoder
    masking: Masking | None = None

    def inputs(self, batch: Batch) -> tuple[Tensor, Prompts, Tensor | None]:
        return self.encoder.latents(batch), self.encoder.prompts(batch), batch.mask

    def losses(
        self, network: Callable[..., Any], inputs: tuple[Tensor, Prompts, Tensor | None], u: Tensor, noise: Noise
    ) -> Losses:
        clean, prompts, inside = inputs

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return network(noisy, t, prompts)

        t = self.objective.sample_timesteps(u, (clean.shape[2], clean.shape[3])).to(clean.device)
        drawn, in_input = self.objective.draw_noise(noise, clean)
        mask = self.masking and self.masking.of(inside, predict)
        unweighted = denoising_loss(self.objective, predict, clean, drawn, t, noise_in_input=in_input, mask=mask)
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
