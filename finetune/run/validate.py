"""Loss on held-out images at fixed noise and fixed timesteps. Two values differ only by the weights."""

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
from finetune.session import Session
from finetune.tasks.base import Task


@dataclass(frozen=True)
class HeldOut:
    """The images that a validation scores, and how."""

    images: TrainingImages
    dataset: TrainingDataset
    batch_size: int
    """Per process."""
    num_timesteps: int


def validate(session: Session) -> float | None:
    """Score the weights that would be exported. The loss is None where it was stopped."""
    run, data = session.run, session.data
    config = run.config
    scored = HeldOut(data.images, data.dataset, config.train.batch_size, config.validation.num_timesteps)
    network = session.tuned.network
    network.eval()
    with session.averaged_weights():
        loss = validation_loss(network, session.task, scored, run.accelerator, stop=session.stop.requested)
    network.train()
    return loss


@torch.no_grad()
def validation_loss(
    network: nn.Module, task: Task, scored: HeldOut, accelerator: Accelerator, *, stop: Callable[[], bool]
) -> float | None:
    """Average the plain task's unweighted loss over held-out images and timesteps. Every process scores a part. It is
    None where `stop` was true before the end on any. Timestep k of K takes u = (k + 1/2) / K, and its noise is a
    function of the image and k alone."""
    groups = [
        (bucket, bucket.records[start : start + scored.batch_size])
        for bucket in scored.images.held_out
        for start in range(0, len(bucket.records), scored.batch_size)
    ]
    task = task.plain()
    total = torch.zeros(2, dtype=torch.float64)
    is_cut = False
    for bucket, indices in groups[accelerator.process_index :: accelerator.num_processes]:
        if is_cut := stop():
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
                if is_cut := stop():
                    break
                u = torch.full((len(indices),), (number + 0.5) / scored.num_timesteps, dtype=torch.float64)
                losses = task.losses(network, inputs, u, functools.partial(fixed_noise, records, number)).unweighted
                total += torch.tensor([losses.double().sum().item(), len(indices)], dtype=torch.float64)
        if is_cut:
            break
    if ranks().any(is_cut):
        return None
    summed: Tensor = accelerator.reduce(total.to(accelerator.device), "sum")  # pyright: ignore[reportAssignmentType]
    loss, count = summed.tolist()
    return loss / count


def fixed_noise(records: Sequence[Record], number: int, shape: Sequence[int], draw: str = "") -> Tensor:
    """Draw noise [B *shape] as a function of each image. `number` and the draw's name count too."""
    purpose = f"validation {draw}" if draw else "validation"
    return torch.stack(
        [torch.randn(*shape, generator=generator(0, purpose, record.sha256, number)) for record in records]
    )
