"""The interface of a tracker, and the records passed to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

LOSSES = {"loss": "loss/train", "validation/loss": "loss/validation", "validation/base_loss": "loss/base_model"}
"""Trackers sort panels by name: losses come first, beside each other, then scores."""


def tracked_name(key: str) -> str:
    """Name a number of metrics.jsonl in the trackers. What is in no group belongs to train."""
    return LOSSES.get(key, key if "/" in key else f"train/{key}")


@dataclass(frozen=True)
class PreviewRow:
    """One preview image. `base_path` is the base model's for the same prompt and seed."""

    prompt: str
    seed: int
    path: Path
    base_path: Path | None


@dataclass(frozen=True)
class ScoredImage:
    """One image of a scored checkpoint, with its scores."""

    prompt: str
    kind: str
    """What the prompt is for, as in grid.json."""
    seed: int
    step: int
    path: Path
    base_path: Path
    scores: Mapping[str, float]
    """Of the image itself, by name."""
    nearest: str | None
    """The file name of the nearest training image."""
    nearest_path: Path | None
    """Where it is a file."""


@dataclass(frozen=True)
class LoggedFiles:
    """Files and folders of a run that belong together. `paths` are inside `folder`, or `folder` itself."""

    name: str
    """Letters, digits, `_`, `.` and `-`; unique to this run."""
    kind: str
    folder: Path
    paths: tuple[Path, ...]
    metadata: Mapping[str, object]
    aliases: tuple[str, ...] = ("latest",)
    """Names of this version, where the tracker has them."""

    def named(self) -> list[tuple[Path, str]]:
        """Return each path with its name in `folder`, empty for `folder` itself."""
        return [(path, path.relative_to(self.folder).as_posix().removeprefix(".")) for path in self.paths]


@dataclass(frozen=True)
class TrackedRun:
    """The facts of a run. `id` stays the same when the run is resumed."""

    folder: Path
    id: str
    project: str
    name: str
    tags: tuple[str, ...]
    mode: Literal["auto", "online", "offline"]
    config: Mapping[str, object]
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    """All four of W&B."""


class Backend(Protocol):
    """One tracker, open until `finish`. Every call may raise or hang; `tracking.Tracker` handles both."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of a step."""
        ...

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Record the preview images of a step."""
        ...

    def log_files(self, files: LoggedFiles) -> None:
        """Record files and folders that the run made."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close the record on disk."""
        ...

    def notes(self) -> list[str]:
        """Say where and how to see the record."""
        ...


@dataclass(frozen=True)
class Input:
    """The base model or dataset of a run. Files stay where they are."""

    name: str
    kind: Literal["base_model", "dataset"]
    metadata: Mapping[str, object]


@runtime_checkable
class Desk(Protocol):
    """The additional interface of a tracker with tables and lineage."""

    def log_inputs(self, inputs: Sequence[Input]) -> None:
        """Record what the run is made from."""
        ...

    def log_gallery(self, rows: Sequence[tuple[int, PreviewRow]]) -> None:
        """Record all previews of the run as one table."""
        ...

    def log_scored(self, images: Sequence[ScoredImage]) -> None:
        """Record the images of all scored checkpoints as one table."""
        ...


@runtime_checkable
class Alerting(Protocol):
    """The additional interface of a tracker that sends messages to people."""

    def alert(self, title: str, text: str) -> None:
        """Send a warning about the run."""
        ...


@runtime_checkable
class Uploading(Protocol):
    """The additional interface of a tracker that sends its record elsewhere."""

    def wait_for_upload(self, seconds: float) -> None:
        """Wait after `finish` for the upload. Give up early where no server answers."""
        ...

    def abandon(self) -> None:
        """Unblock `finish`; called from another thread."""
        ...
