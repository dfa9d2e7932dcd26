"""The prediction of what the objective asks for. Axes: B batch, C channels, H W latent height and width."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.models.prompts import Condition
from finetune.objectives.diffusion import Objective, denoising_loss
from finetune.objectives.mask import LossMask, Predict
from finetune.objectives.noise import Noise
from finetune.tasks.base import SampleLosses, TaskContext

NetworkCall = Callable[[Tensor, Tensor, Condition], Tensor]
"""The network in training: its prediction for noisy latents, timesteps and prompts."""
Inputs = tuple[Tensor, Condition, Tensor | None]
"""Clean latents, prompts, and where the image is trained on."""


@dataclass(frozen=True)
class Masking:
    """The options of training on parts of images."""

    outside_weight: float
    prior_weight: float
    base_model: Callable[[], AbstractContextManager[None]]
    """The network predicts as the base model within this context."""

    def loss_mask(self, inside: Tensor | None, predict: Predict) -> LossMask:
        """Make the mask of a batch. `inside` [B 1 H W] is where it is trained on."""
        assert inside is not None, "a run with masks gives every batch one"

        def predict_base(noisy: Tensor, t: Tensor) -> Tensor:
            with self.base_model():
                return predict(noisy, t)

        return LossMask(inside, self.outside_weight, self.prior_weight, predict_base)


@dataclass(frozen=True)
class Denoising:
    """Predict what the objective asks for from noisy latents and the prompt."""

    objective: Objective
    encoder: Encoder
    masking: Masking | None = None

    def inputs(self, batch: Batch) -> Inputs:
        return self.encoder.latents(batch), self.encoder.prompts(batch), batch.mask

    def losses(self, network: NetworkCall, inputs: Inputs, u: Tensor, noise: Noise) -> SampleLosses:
        clean, prompts, inside = inputs

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return network(noisy, t, prompts)

        t = self.objective.sample_timesteps(u, (clean.shape[2], clean.shape[3])).to(clean.device)
        drawn, in_input = self.objective.draw_noise(noise, clean)
        mask = self.masking and self.masking.loss_mask(inside, predict)
        unweighted = denoising_loss(self.objective, predict, clean, drawn, t, noise_in_input=in_input, mask=mask)
        return SampleLosses(unweighted, self.objective.weight(t), t)

    def plain(self) -> Self:
        return replace(self, objective=self.objective.plain())


@dataclass(frozen=True)
class MakeDenoising:
    """The maker of the usual task, which reads the captions alone."""

    prompts: tuple[str, ...] = ()

    def __call__(self, context: TaskContext) -> Denoising:
        return Denoising(context.objective, context.encoder)


denoising = MakeDenoising()
