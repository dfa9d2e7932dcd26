"""What stands in a run's folder beside checkpoints: status, data card, and whether a run there may be continued;
torch-free."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.command_line import as_flat, read_yaml
from finetune.config import CacheConfig, TrainConfig, ValidationConfig

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest, Record

MAY_CHANGE = (
    "output.",
    "tracking.",
    "preview.",
    "checkpoint.",
    "cache.",
    "resume",
    "goal",
    "data.num_workers",
    "data.allow_change",
    "data.caption_lines",  # what it changes shows in the manifest, which is compared
    "data.folder_repeats",
    "train.ema_device",
    "optim.in_backward",
)
"""Options that do not alter what is learned."""
MAY_GROW = ("train.steps",)
FOUND = ("model.family",)
"""Options that, where none is given, are found while the run is assembled and then stand in its config."""


def check_output(folder: Path) -> None:
    """Creates the run's folder and proves that it can be written to; raises OSError with one sentence where it
    cannot."""
    probe = folder / f".tmp-probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"output.folder: {folder} cannot be written to ({error.strerror}). Choose a folder you may write to, on a "
            "disk with room."
        ) from error


def finished_message(config: TrainConfig) -> str | None:
    """Returns the sentence for a run that is complete, None where there is work to do.

    Raises ValueError where the folder holds a complete run that was made with other options.
    """
    folder = config.output.folder
    has_checkpoints = any((folder / "checkpoints").glob("step_*"))
    if config.resume == "never" and has_checkpoints:
        raise ValueError(
            f"resume: got never, but {folder} holds a run. Choose another output.folder, or leave --resume away to "
            "continue it."
        )
    steps = finished_steps(folder / "run.json")
    if steps is None or (steps < config.train.steps and has_checkpoints):
        return None
    if steps < config.train.steps:
        raise ValueError(
            f"output.folder: {folder} holds a finished run of {steps} steps whose checkpoints are gone, so that it "
            f"cannot be continued to {config.train.steps}. Choose another output.folder."
        )
    changed = changed_options(config, folder / "config.yaml")
    if changed or steps > config.train.steps:
        listed = ", ".join(changed) or f"train.steps {steps} -> {config.train.steps}"
        raise ValueError(
            f"output.folder: {folder} holds a finished run of {steps} steps with other options ({listed}). Choose "
            "another output.folder, or raise train.steps to continue it."
        )
    model, report = folder / "export", folder / "report.html"
    return f"The run in {folder} is finished ({steps} steps). Its model: {model}. Its report: {report}."


def finished_steps(status_file: Path) -> int | None:
    """Returns the steps of the complete run that run.json tells of, None where there is none."""
    if not status_file.exists():
        return None
    try:
        return int(json.loads(status_file.read_text())["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output.folder: {status_file} is damaged. Delete that file; the same command then exports the run anew "
            "from its last checkpoint."
        ) from error


def changed_options(config: TrainConfig, saved: Path) -> list[str]:
    """Returns "optim.lr 0.0001 -> 0.0002" for every option that alters what is learned and differs from the saved
    config."""
    before, _ = read_yaml(saved) if saved.exists() else ({}, [])
    changed = []
    for key, value in as_flat(config).items():
        now = [str(part) for part in (value if isinstance(value, list) else [value])]
        free = key.startswith(MAY_CHANGE) or key in MAY_GROW or (key in FOUND and value is None)
        if key in before and before[key] != now and not free:
            changed.append(f"{key} {' '.join(before[key])} -> {' '.join(now)}")
    return changed


def refuse_changed_data(manifest: "Manifest", digests: dict[str, str], allowed: bool) -> str | None:
    """Compares the pictures and captions with those of the checkpoint; returns a warning, None where nothing changed.

    Raises ValueError that lists the files where they differ and `allowed` is false.
    """
    changes = manifest.changes(digests)
    if not changes:
        return None
    text = f"the pictures or captions in {manifest.location} differ from those of the checkpoint: {changes.summary()}."
    if not allowed:
        raise ValueError(
            f"data.folder: {text} Put them back, or add --data.allow_change true to train on with the new ones."
        )
    return text


def cache_folder(config: CacheConfig) -> Path:
    """Returns where caches live."""
    if config.folder is not None:
        return config.folder
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sd-finetune"


def held_out_indices(records: Sequence["Record"], config: ValidationConfig) -> set[int]:
    """Returns the records kept for validation: those the manifest names, else the given share, chosen by content.

    Equal pictures (same bytes) always stand on the same side. A share above 0 holds out at least one picture.
    """
    if any(record.split is not None for record in records):
        return {index for index, record in enumerate(records) if record.split == "validation"}
    if config.every == 0 or config.fraction == 0:
        return set()
    contents = sorted({record.sha256 for record in records})
    chosen = set(contents[: max(1, round(config.fraction * len(contents)))])
    return {index for index, record in enumerate(records) if record.sha256 in chosen}


def data_card(
    manifest: "Manifest",
    held_out: set[int],
    figures: Sequence[dict[str, Any]],
    parameters: dict[str, int],
    warnings: Sequence[str],
) -> str:
    """Returns OUT/data_card.json: what the run was trained on."""
    counts = [len(record.captions) for record in manifest.records]
    card = {
        "location": manifest.location,
        "fingerprint": manifest.fingerprint,
        "num_pictures": len(manifest.records),
        "num_train": len(manifest.records) - len(held_out),
        "num_validation": len(held_out),
        "captions": {"num": sum(counts), "most_per_picture": max(counts)},
        "buckets": list(figures),
        "parameters": parameters,
        "warnings": list(warnings),
    }
    return json.dumps(card, indent=1)
