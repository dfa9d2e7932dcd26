"""The interface of a task. Training and validation compute the same losses. Axes: B batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.models.prompts import Prompts
from finetune.objectives.diffusion import Objective
from finetune.objectives.noise import Noise


@dataclass(frozen=True)
class SampleLosses:
    """Each sample's unweighted loss, the objective's weight, and its timestep, all [B]."""

    unweighted: Tensor
    weight: Tensor
    timesteps: Tensor


class Task(Protocol):
    """One kind of loss for the network of a tuning method."""

    def inputs(self, batch: Batch) -> Any:
        """Encode once what `losses` needs of the batch."""
        ...

    def losses(self, network: Callable[..., Any], inputs: Any, u: Tensor, noise: Noise) -> SampleLosses:
        """Compute the losses for noise and uniforms u [B] in [0, 1). The uniforms choose the timesteps."""
        ...

    def plain(self) -> "Task":
        """Make the task of validation. It has plain noise and squared errors at all timesteps."""
        ...


@dataclass(frozen=True)
class TaskContext:
    """The material of a task. The weights are still those of the base model."""

    objective: Objective
    encoder: Encoder
    network: nn.Module
    dtype: torch.dtype
    """In which frozen weights compute."""
    rows: Mapping[str, Prompts] = field(default_factory=dict)
    """The task's own prompts [1 ...], encoded; none where text is encoded at every step."""


class MakeTask(Protocol):
    """The maker of a run's task, called once its network is there."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts beside the captions that the task reads. They are encoded with these."""
        ...

    def __call__(self, context: TaskContext) -> Task:
        """Make the task."""
        ...
