"""Loss on held-out images at fixed noise and fixed timesteps. Two values differ only by the weights.

The mean alone misleads: a style set's loss at little noise, where strokes are, may still fall while that at much noise
rises, because layouts are being memorised. So each timestep's loss is measured too.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.batches.batch import collate
from finetune.batches.dataset import TrainingDataset, TrainingImages, validation_caption
from finetune.batches.view import validation_view
from finetune.data.manifest import Record
from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import plural
from finetune.processes.ranks import ranks
from finetune.randomness import generator
from finetune.report.validation import AT
from finetune.run.step import due
from finetune.session import Session
from finetune.tasks.base import Task
from finetune.tasks.denoising import Denoising

LEAST_HALVED = 16
"""Steps between two validations from which the first of them is halved."""


@dataclass(frozen=True)
class HeldOut:
    """The images that a validation scores, and how."""

    images: TrainingImages
    dataset: TrainingDataset
    batch_size: int
    """Per process."""
    num_timesteps: int


@dataclass(frozen=True)
class Validation:
    """The result of one validation."""

    loss: float
    """Over all images and timesteps."""
    at: dict[int, float]
    """By the timestep's place on the way to pure noise, in thousandths; empty for a task without timesteps."""

    def row(self) -> dict[str, float]:
        """Name the figures as metrics do."""
        return {"validation/loss": self.loss} | {f"{AT}{place}": loss for place, loss in self.at.items()}


def validation_is_due(session: Session, step: int) -> bool:
    """Tell if a validation follows the step."""
    return session.validates and is_validated(step, session.run.config.validation.every, session.run.steps)


def is_validated(step: int, every: int, steps: int) -> bool:
    """True every `every` steps, at the end, and at some early steps. On few images the loss is often lowest before the
    first regular validation, so that interval is halved three times: 12, 25 and 50 steps where `every` is 100."""
    early = (every // 8, every // 4, every // 2) if every >= LEAST_HALVED else ()
    return step in early or due(step, every, steps)


def validate(session: Session) -> Validation | None:
    """Score the weights that would be exported. The result is None where it was stopped."""
    run, data = session.run, session.data
    config = run.config
    scored = HeldOut(data.images, data.dataset, config.train.batch_size, config.validation.num_timesteps)
    network = session.tuned.network
    network.eval()
    with session.averaged_weights():
        result = validation_loss(network, session.task, scored, run.accelerator, stop=session.stop.requested)
    network.train()
    return result


@torch.no_grad()
def validation_loss(
    network: nn.Module, task: Task, scored: HeldOut, accelerator: Accelerator, *, stop: Callable[[], bool]
) -> Validation | None:
    """Average the plain task's unweighted loss over held-out images and timesteps. Every process scores a part. It is
    None where `stop` was true before the end on any. Timestep k of K takes u = (k + 1/2) / K, and its noise is a
    function of the image and k alone."""
    groups = [
        (bucket, bucket.records[start : start + scored.batch_size])
        for bucket in scored.images.held_out
        for start in range(0, len(bucket.records), scored.batch_size)
    ]
    task = task.plain()
    total = torch.zeros(2 + scored.num_timesteps, dtype=torch.float64)  # loss, number, and the loss of each timestep
    is_cut = False
    for bucket, indices in ranks().share(groups):
        if is_cut := ranks().ends_early(stop()):
            break
        view = validation_view(bucket)
        records = [scored.dataset.records[index] for index in indices]
        with explaining_out_of_memory(
            f"in a validation: {plural(len(indices), 'image')} of {view.width}x{view.height}",
            "Lower train.batch_size and raise train.accumulation instead, lower data.resolution, or set "
            "validation.every 0.",
        ):
            batch = collate(
                [
                    scored.dataset.sample(index, 0, view, validation_caption(record, scored.images.data))
                    for index, record in zip(indices, records, strict=True)
                ]
            ).to(accelerator.device)
            inputs = task.inputs(batch)
            for number in range(scored.num_timesteps):
                if is_cut := ranks().ends_early(stop()):
                    break
                u = torch.full((len(indices),), (number + 0.5) / scored.num_timesteps, dtype=torch.float64)
                losses = task.losses(network, inputs, u, functools.partial(fixed_noise, records, number)).unweighted
                loss = losses.double().sum().item()
                total[:2] += torch.tensor([loss, len(indices)], dtype=torch.float64)
                total[2 + number] += loss
        if is_cut:
            break
    if ranks().any(is_cut):
        return None
    summed: Tensor = accelerator.reduce(total.to(accelerator.device), "sum")  # pyright: ignore[reportAssignmentType]
    loss, count, *at = summed.tolist()
    per_timestep = count / scored.num_timesteps
    places = [round(1000 * (number + 0.5) / scored.num_timesteps) for number in range(scored.num_timesteps)]
    split = {place: part / per_timestep for place, part in zip(places, at, strict=True)}
    return Validation(loss / count, split if isinstance(task, Denoising) and len(split) > 1 else {})


def fixed_noise(records: Sequence[Record], number: int, shape: Sequence[int], draw: str = "") -> Tensor:
    """Draw noise [B *shape] as a function of each image. `number` and the draw's name count too."""
    purpose = f"validation {draw}" if draw else "validation"
    return torch.stack(
        [torch.randn(*shape, generator=generator(0, purpose, record.sha256, number)) for record in records]
    )
