"""Loss on held-out pictures at fixed noise and fixed timesteps, so that two values differ only by the weights."""

import functools
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.batches.buckets import Bucket
from finetune.batches.dataset import TrainingDataset, collate
from finetune.batches.encoder import validation_caption, validation_view
from finetune.config.sections import DataConfig
from finetune.data.manifest import Record
from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import plural
from finetune.processes.ranks import ranks
from finetune.randomness import generator
from finetune.tasks.base import Task


@torch.no_grad()
def validation_loss(
    network: nn.Module,
    task: Task,
    dataset: TrainingDataset,
    held_out: Sequence[Bucket],
    data: DataConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_timesteps: int,
    stop: Callable[[], bool],
) -> float | None:
    """Returns the plain task's mean unweighted loss over held-out pictures x timesteps; every process scores a part.

    None where `stop` was true before the last batch and timestep, on any process.

    Timestep k of K takes u = (k + 1/2) / K, and its noise is a function of the picture and k alone.
    """
    groups = [
        (bucket, bucket.records[start : start + batch_size])
        for bucket in held_out
        for start in range(0, len(bucket.records), batch_size)
    ]
    task = task.plain()
    total = torch.zeros(2, dtype=torch.float64)
    is_cut = False
    for bucket, indices in groups[accelerator.process_index :: accelerator.num_processes]:
        is_cut = stop()
        if is_cut:
            break
        view = validation_view(bucket)
        records = [dataset.records[index] for index in indices]
        with explaining_out_of_memory(
            f"in a validation: {plural(len(indices), 'image')} of {view.width}x{view.height}",
            "Lower train.batch_size and raise train.accumulation instead, lower data.resolution, or set "
            "validation.every 0.",
        ):
            batch = collate(
                [
                    dataset.sample(index, 0, view, validation_caption(record, data))
                    for index, record in zip(indices, records, strict=True)
                ]
            ).to(accelerator.device)
            inputs = task.inputs(batch)
            for number in range(num_timesteps):
                is_cut = stop()
                if is_cut:
                    break
                u = torch.full((len(indices),), (number + 0.5) / num_timesteps, dtype=torch.float64)
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
    """Returns noise [B *shape] that is a function of each picture, of `number` and of the draw's name."""
    purpose = f"validation {draw}" if draw else "validation"
    return torch.stack(
        [torch.randn(*shape, generator=generator(0, purpose, record.sha256, number)) for record in records]
    )
