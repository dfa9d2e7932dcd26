"""What a network learns from a batch; training and validation compute the same losses.

Axes: B batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.models.family import Prompts
from finetune.objectives.diffusion import Objective
from finetune.objectives.noise import Noise


@dataclass(frozen=True)
class SampleLosses:
    """Of each sample: the unweighted loss, the weight that the objective gives it, and its timestep; all [B]."""

    unweighted: Tensor
    weight: Tensor
    timesteps: Tensor


class Task(Protocol):
    """One kind of loss, for a network that the tuning method has made."""

    def inputs(self, batch: Batch) -> Any:
        """Returns what `losses` needs of the batch, encoded once."""
        ...

    def losses(self, network: Callable[..., Any], inputs: Any, u: Tensor, noise: Noise) -> SampleLosses:
        """Returns the losses for uniforms u [B] in [0, 1), which choose the timesteps, and for noise."""
        ...

    def plain(self) -> "Task":
        """Returns the task as validation measures it: plain noise and squared errors at all timesteps."""
        ...


@dataclass(frozen=True)
class TaskContext:
    """What a task is made of; the weights are still those of the base model."""

    objective: Objective
    encoder: Encoder
    network: nn.Module
    dtype: torch.dtype
    """In which frozen weights compute."""
    rows: Mapping[str, Prompts] = field(default_factory=dict)
    """What the caches hold of the task's own prompts, without axis B; nothing where text is encoded at every step."""


class MakeTask(Protocol):
    """Makes the task of a run, once its network is there."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Texts beside the captions that the task reads; they are encoded with these."""
        ...

    def __call__(self, context: TaskContext) -> Task:
        """Returns the task."""
        ...
