"""Compare the base model's loss with that of predicting zero. A model with another prediction type than its
training's is hardly better than zero, or worse: training then runs without an error and ruins it."""

import functools

import torch
from torch import Tensor, nn

from finetune.batches.batch import collate
from finetune.batches.dataset import TrainingDataset
from finetune.randomness import noise_at
from finetune.tasks.base import Task
from finetune.tasks.denoising import Denoising

NUM_PROBES = 8
"""Images, each at a timestep of its own, spread evenly; one forward pass each."""
WORST_SHARE = 0.9
"""Of the loss of predicting zero; base models that fit their objective are far below."""


@torch.no_grad()
def base_losses(network: nn.Module, task: Task, dataset: TrainingDataset, device: torch.device) -> tuple[float, float]:
    """Return the mean plain loss of the network, and of predicting zero. Images, noise and timesteps are the same. A
    function of weights and dataset alone, which every process computes by itself: it draws nothing from the global
    random state and exchanges nothing."""
    indices = sorted(dataset.views)
    task = task.plain()

    def zero(noisy: Tensor, *conditions: object) -> Tensor:
        return torch.zeros_like(noisy)

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


def base_loss_warnings(network: nn.Module, task: Task, dataset: TrainingDataset, device: torch.device) -> list[str]:
    """Return a warning if the base model hardly predicts its objective."""
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
