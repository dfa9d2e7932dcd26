"""Loss on held-out pictures at fixed noise and fixed timesteps, so that two values differ only by the weights."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.config import DataConfig
from finetune.data.buckets import Bucket
from finetune.data.dataset import TrainingDataset, collate
from finetune.data.encode import Encoder, validation_caption, validation_view
from finetune.models.base import Prompts
from finetune.objectives import Objective, denoising_loss
from finetune.randomness import generator

Predict = Callable[[Tensor, Tensor, Prompts], Tensor]


@torch.no_grad()
def validation_loss(
    predict: Predict,
    objective: Objective,
    dataset: TrainingDataset,
    held_out: Sequence[Bucket],
    encoder: Encoder,
    data: DataConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_timesteps: int,
) -> float:
    """Returns the mean unweighted loss over held-out pictures x timesteps; every process scores a part.

    Timestep k of K takes u = (k + 1/2) / K, and its noise is a function of the picture and k alone.
    """
    groups = [
        (bucket, bucket.records[start : start + batch_size])
        for bucket in held_out
        for start in range(0, len(bucket.records), batch_size)
    ]
    total = torch.zeros(2, dtype=torch.float64)
    for bucket, indices in groups[accelerator.process_index :: accelerator.num_processes]:
        view = validation_view(bucket)
        records = [dataset.records[index] for index in indices]
        batch = collate(
            [
                dataset.sample(index, 0, view, validation_caption(record, data))
                for index, record in zip(indices, records, strict=True)
            ]
        ).to(accelerator.device)
        clean, prompts = encoder.latents(batch), encoder.prompts(batch)
        for number in range(num_timesteps):
            u = torch.full((len(indices),), (number + 0.5) / num_timesteps, dtype=torch.float64)
            t = objective.sample_timesteps(u).to(clean.device)
            noise = torch.stack(
                [torch.randn(clean.shape[1:], generator=generator(0, "validation", r.sha256, number)) for r in records]
            ).to(clean.device)
            losses = denoising_loss(objective, lambda noisy, t: predict(noisy, t, prompts), clean, noise, t)  # noqa: B023
            total += torch.tensor([losses.double().sum().item(), len(indices)], dtype=torch.float64)
    summed: Tensor = accelerator.reduce(total.to(accelerator.device), "sum")  # pyright: ignore[reportAssignmentType]
    loss, count = summed.tolist()
    return loss / count
