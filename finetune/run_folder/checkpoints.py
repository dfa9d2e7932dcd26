"""The checkpoints of a run by name; torch-free."""

import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from finetune.run_folder.metrics import Row

STEP_FOLDER = re.compile(r"step_(\d{6,})")
Identity = dict[str, "PartIdentity"]


class PartIdentity(TypedDict):
    """The hash of weights or a vocabulary, and settings. `assumed` are those that no file gave."""

    hash: str
    settings: dict[str, object]
    assumed: list[str]


class CheckpointState(TypedDict):
    """The contents of a checkpoint's state.json."""

    step: int
    window: dict[str, Any]
    pending: Row | None
    metrics_bytes: int
    base_loss: float | None
    elapsed_seconds: float
    scaler: dict[str, object] | None
    dataset: dict[str, str]
    base_sha256: str
    model: NotRequired[Identity]
    precision: str
    global_batch_size: int


def complete_steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of all checkpoints, newest first. The step is the number in the name."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := STEP_FOLDER.fullmatch(path.name))]
    return sorted(found, reverse=True)
