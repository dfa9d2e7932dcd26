"""The frozen state of a run: opened, loaded, prepared and attached. Only train, loop, setup and run use it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TextIO

import torch
from accelerate import Accelerator
from torch import nn

from finetune.batches.batch import Batch
from finetune.batches.buckets import BucketFigures
from finetune.batches.dataset import TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.batches.preview_prompts import DrawingPrompts
from finetune.config.train import TrainConfig
from finetune.data.manifest import Manifest
from finetune.evaluate.running.desk import Desk
from finetune.models.family import AutoencoderNetwork, Components, ModelFamily, ModelSource, Network
from finetune.models.parts import ModelParts, Part
from finetune.objectives.diffusion import Objective
from finetune.optim.build import evaluation_weights
from finetune.optim.ema import EMA
from finetune.optim.first_steps import FirstSteps
from finetune.processes.sharding_request import Sharding
from finetune.processes.signals import StopRequest
from finetune.run_folder.checkpoints import CheckpointState, Identity
from finetune.run_folder.metrics import MetricsFile, Row, Window
from finetune.tasks.base import Task
from finetune.tracking.tracker import Tracker


@dataclass(frozen=True)
class Progress:
    """The progress of a run; the loop's half of a checkpoint."""

    step: int = 0
    """Optimizer steps made."""
    window: Window = field(default_factory=Window)
    row: Row | None = None
    """The line of metrics that belongs to `step`, written after a checkpoint of that step."""
    metrics_bytes: int = 0
    """Of metrics.jsonl before that line."""
    base_loss: float | None = None
    """Validation loss of the base model."""
    seconds: float = 0.0
    """Spent in steps."""

    def after_step(
        self, loss: float, num_images: int, seconds: float, waited: float = 0.0, flops: float = 0.0
    ) -> "Progress":
        """Return the progress one optimizer step later."""
        window = self.window.plus(loss, num_images, seconds, waited, flops)
        return replace(self, step=self.step + 1, window=window, row=None, seconds=self.seconds + seconds)


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint, whose tensors are read when they are needed."""

    path: Path
    state: CheckpointState

    def progress(self) -> Progress:
        """Return the progress at the checkpoint."""
        state = self.state
        rest = state["pending"], state["metrics_bytes"], state["base_loss"], state["elapsed_seconds"]
        return Progress(state["step"], Window(**state["window"]), *rest)


@dataclass(frozen=True)
class Run:
    """A run whose folder is locked and whose processes know each other."""

    config: TrainConfig
    manifest: Manifest
    accelerator: Accelerator
    source: ModelSource
    family: ModelFamily
    lock: TextIO | None
    """None outside the main process."""
    resume: ResumePoint | None
    warnings: Sequence[str]
    started_at: datetime
    sharding: Sharding | None = None
    """How the denoiser is sharded over the processes; None where each holds it whole."""

    @property
    def folder(self) -> Path:
        return self.config.output.folder

    @property
    def steps(self) -> int:
        return self.config.train.steps

    @property
    def first_step(self) -> int:
        """The step that the run starts from."""
        return 0 if self.resume is None else self.resume.state["step"]

    @property
    def global_batch_size(self) -> int:
        return self.config.train.batch_size * self.config.train.accumulation * self.accelerator.num_processes

    def say(self, text: str) -> None:
        """Print on the main process."""
        self.accelerator.print(text)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings on the main process."""
        for warning in warnings:
            self.say(f"warning: {warning}")


@dataclass(frozen=True)
class LoadedModel:
    """The base model of a run. Its parts have weights only while they are needed."""

    source: ModelSource
    """Weights that do not change stay in their stored number format."""
    parts: ModelParts
    objective: Objective
    is_inpainting: bool
    in_network: tuple[Part, ...]
    """The parts in the method's network."""
    identity: Identity
    base_sha256: str
    stamps: list[tuple[str, int, int, int]]
    """Of the files, which must not change while the run reads them again."""
    dtype: torch.dtype
    """In which frozen weights compute."""
    warnings: Sequence[str]
    alters_weights: bool
    """True if the model's own weights change, so the network has those of the base model no more."""

    @property
    def components(self) -> Components:
        return self.parts.components

    @property
    def trains_text_encoders(self) -> bool:
        return "text_encoders" in self.in_network


@dataclass(frozen=True)
class TrainingData:
    """The images of a run as batches, with its caches filled."""

    held_out_indices: frozenset[int]
    images: TrainingImages
    figures: Sequence[BucketFigures]
    dataset: TrainingDataset
    loader: torch.utils.data.DataLoader[Batch]
    encoder: Encoder
    prompts: DrawingPrompts
    """Of the previews; filled later where text encoders train."""
    warnings: Sequence[str]


@dataclass(frozen=True)
class Tuned:
    """The network in training, with what updates and averages its weights."""

    network: Network | AutoencoderNetwork
    wrapped: nn.Module
    """By Accelerate, for several processes."""
    optimizer: torch.optim.Optimizer
    stepper: torch.optim.Optimizer
    """The optimizer, wrapped by Accelerate."""
    parameters: list[nn.Parameter]
    ema: EMA | None
    counts: dict[str, int]
    """Trained and frozen parameters of the network."""


@dataclass(frozen=True)
class Records:
    """The files that the main process writes during a run. Both are None on the others."""

    metrics: MetricsFile | None
    tracker: Tracker | None


@dataclass(frozen=True)
class Work:
    """The arithmetic of training beside what the devices can do."""

    flops: Mapping[tuple[int, int], float]
    """Of one image, by the width and height it is trained at."""
    peak: float
    """FLOP/s of all devices."""


@dataclass(frozen=True)
class Session:
    """Everything that the loop and later steps read."""

    run: Run
    model: LoadedModel
    data: TrainingData
    tuned: Tuned
    task: Task
    records: Records
    components: Components
    """With the scheduler that images are sampled with."""
    stop: StopRequest
    start: Progress
    first_steps: FirstSteps | None
    """Watched on the main process, after every start."""
    desk: Desk | None = None
    """Where checkpoints are scored."""
    work: Work | None = None
    """None where the devices' peak is not known, and on all processes but the main one."""

    @property
    def passes_per_step(self) -> float:
        """The share of the trained images that a step sees."""
        return self.data.images.passes(self.run.global_batch_size)

    @property
    def validates(self) -> bool:
        return bool(self.data.images.held_out) and self.run.config.validation.every > 0

    def step_flops(self, batch: Batch) -> float:
        """Return the FLOPs of a step of all processes. It is 0 where they are not counted."""
        if self.work is None:
            return 0.0
        view = self.data.dataset.views[batch.indices[0]][0]
        return self.work.flops[view.width, view.height] * self.run.global_batch_size

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Load the weights that are exported into the network within the context."""
        tuned = self.tuned
        if tuned.ema:
            return tuned.ema.in_place_of(tuned.network)
        return evaluation_weights(tuned.optimizer, self.run.config.optim)
