"""A task: denoise with the mean absolute error. Axes: B batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.objectives.diffusion import Objective
from finetune.objectives.noise import Noise
from finetune.tasks.base import SampleLosses, TaskContext
from finetune.tasks.denoising import Denoising


@dataclass(frozen=True)
class AbsoluteError:
    """Denoise, with an error that outliers weigh less in."""

    objective: Objective
    encoder: Encoder

    def inputs(self, batch: Batch) -> Any:
        return self.encoder.latents(batch), self.encoder.prompts(batch)

    def losses(self, network: Callable[..., Any], inputs: Any, u: Tensor, noise: Noise) -> SampleLosses:
        clean, prompts = inputs
        t = self.objective.sample_timesteps(u, clean.shape[2:]).to(clean.device)
        drawn, in_input = self.objective.draw_noise(noise, clean)
        prediction = network(self.objective.add_noise(clean, in_input, t), t, prompts)
        errors = (prediction.float() - self.objective.target(clean, drawn, t).float()).abs()
        return SampleLosses(errors.flatten(1).mean(1), self.objective.weight(t), t)

    def plain(self) -> Denoising:
        return Denoising(self.objective.plain(), self.encoder)


class MakeAbsoluteError:
    """Makes the task of a run."""

    prompts: tuple[str, ...] = ()

    def __call__(self, context: TaskContext) -> AbsoluteError:
        return AbsoluteError(context.objective, context.encoder)
