"""The trackers, one line each, and their options; no torch here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

TRACKERS: dict[str, tuple[str, str | None]] = {
    "wandb": ("finetune.tracking.wandb.offline_run:WeightsAndBiases", "wandb"),
    "tensorboard": ("finetune.tracking.tensorboard:TensorBoard", "tensorboard"),
    "mlflow": ("finetune.tracking.mlflow:MLflow", "mlflow"),
    "trackio": ("finetune.tracking.trackio:Trackio", "trackio"),
}
"""The class of each tracker as "module:Class", imported when it is opened, and the package that it needs."""
if TYPE_CHECKING:
    TrackerName = str
else:
    TrackerName = Literal[tuple(TRACKERS)]


@dataclass(frozen=True)
class TrackingConfig:
    """Dashboards beside OUT/metrics.jsonl and OUT/report.html, which are always written."""

    names: tuple[TrackerName, ...] = ("wandb",)
    """Trackers; for none, give the option without a value."""
    project: str | None = None
    """Project of the run; none takes sd-finetune, in W&B the variable WANDB_PROJECT first."""
    run_name: str | None = None
    """Name of the run; none takes the output folder's name and the first letters of the run's id, in W&B the variable
    WANDB_NAME first."""
    tags: tuple[str, ...] = ()
    """Labels of the run; where none are given, W&B takes those of the variable WANDB_TAGS."""
    entity: str | None = None
    """W&B user or team; none takes the variable WANDB_ENTITY, then your own."""
    group: str | None = None
    """W&B group of runs that belong together; none takes WANDB_RUN_GROUP."""
    job_type: str | None = None
    """Kind of run within a W&B group, such as train; none takes WANDB_JOB_TYPE."""
    notes: str | None = None
    """What the run is for, shown in W&B; none takes WANDB_NOTES."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """W&B mode; auto is online when you are logged in, else offline."""

    def problems(self) -> list[str]:
        doubled = {name for name in self.names if self.names.count(name) > 1}
        return [f"tracking.names: got {name} twice." for name in sorted(doubled)]
