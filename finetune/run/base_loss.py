"""The base model's own loss on the data before the first step, against that of predicting zero.

A model that is asked for something else than it was trained to predict is hardly better than zero, or worse: training
then runs without an error and ruins it.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from finetune.batches.dataset import TrainingDataset, collate
from finetune.randomness import noise_at
from finetune.tasks.base import Task
from finetune.tasks.denoising import Denoising

NUM_PROBES = 8
"""Images, each at a timestep of its own, spread evenly; one forward pass each."""
WORST_SHARE = 0.9
"""Of the loss of predicting zero; base models that fit their objective are far below."""


@torch.no_grad()
def base_losses(network: nn.Module, task: Task, dataset: TrainingDataset, device: torch.device) -> tuple[float, float]:
    """Returns the mean plain loss of the network, and of predicting zero, on the same images, noise and timesteps.

    A function of weights and dataset alone, which every process computes for itself: it draws nothing from the global
    random state and exchanges nothing.
    """
    indices = sorted(dataset.views)
    task, zero = task.plain(), predicted_zero
    totals = [0.0, 0.0]
    was_training = network.training
    network.eval()
    for number in range(NUM_PROBES):
        index = indices[number * len(indices) // NUM_PROBES]
        inputs = task.inputs(collate([dataset[index, number]]).to(device))
        u = torch.tensor([(number + 0.5) / NUM_PROBES], dtype=torch.float64)
        noise = functools.partial(noise_at, 0, [number])
        for place, predict in enumerate((network, zero)):
            totals[place] += task.losses(predict, inputs, u, noise).unweighted.item() / NUM_PROBES
    network.train(was_training)
    return totals[0], totals[1]


def predicted_zero(noisy: Tensor, *conditions: Any) -> Tensor:
    """Returns zeros in the place of a network's prediction [B C H W]."""
    return torch.zeros_like(noisy)


def base_loss_warnings(network: nn.Module, task: Task, dataset: TrainingDataset, device: torch.device) -> list[str]:
    """Returns what the user should know where the base model does not predict what it is asked for."""
    if not isinstance(task.plain(), Denoising):
        return []
    base, zero = base_losses(network, task, dataset, device)
    if not base > WORST_SHARE * zero:
        return []
    return [
        f"the base model's own loss on these images is {base:.3g}, and that of predicting zero {zero:.3g}; expected at "
        f"most {WORST_SHARE} of it. Either the model was not trained to predict this, or its parts do not belong "
        "together, or it has seen nothing like these images, as a small model that was trained on one kind of them. "
        "Check prediction_type in scheduler/scheduler_config.json (of a single file --loss.prediction_type) and that "
        "denoiser, VAE and text encoders are of one model."
    ]
