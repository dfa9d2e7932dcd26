"""The data card, and options that may change within a run; torch-free."""

import json
import os
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.facts import Resume, marked
from finetune.config.outputs import ValidationConfig
from finetune.config.parse.command_line import read_yaml
from finetune.config.parse.convert import entry_text
from finetune.config.parse.dump import as_flat
from finetune.config.train import TrainConfig
from finetune.processes.ranks import ranks

if TYPE_CHECKING:
    from finetune.data.folders import FolderCount
    from finetune.data.manifest import Manifest, Record

SECONDS_TO_APPEAR = 5.0


def check_output(folder: Path) -> None:
    """Create the run's folder and test writing to it. Raises OSError with one sentence if that fails."""
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


def refuse_separate_folders(folders: Mapping[str, Path]) -> None:
    """Raise ValueError unless all processes see the same folders. They are given by option. With an output folder of
    each machine's own, each would train, and only the first save. A folder that the first process cannot write to is
    not compared, and one process compares none."""
    if ranks().size == 1:
        return
    token = f".tmp-job-{ranks().exchange(secrets.token_hex(8))[0]}"
    marks = {option: folder / token for option, folder in folders.items()}
    marked = [option for option, mark in marks.items() if ranks().rank == 0 and wrote(mark)]
    marked = json.loads(ranks().exchange(json.dumps(marked))[0])
    unseen = [option for option in marked if not appears(marks[option])]
    found = [json.loads(text) for text in ranks().exchange(json.dumps(unseen))]
    if ranks().rank == 0:
        for option in marked:
            marks[option].unlink(missing_ok=True)
    problems = []
    for option in marked:
        if apart := [str(rank) for rank, unseen in enumerate(found) if option in unseen]:
            problems.append(
                f"{option}: {folders[option]} is not the same folder for process {', '.join(apart)} as for process 0. "
                "Use a folder on a disk that all machines of the job share."
            )
    if problems:
        ranks().leave()
        raise ValueError("\n".join(problems))


def wrote(mark: Path) -> bool:
    """Create an empty file with its folder. Returns False where that is refused."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return False
    return True


def appears(path: Path) -> bool:
    """Return True once the file is there. A network disk may show it some seconds later."""
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def changed_options(config: TrainConfig, saved: Path) -> list[str]:
    """List changed options that alter training, as in "optim.lr 0.0001 -> 0.0002"."""
    given = as_flat(config)
    found = [key for key in marked(type(config), Resume.FOUND) if given[key] is not None]
    return different_values(config, saved, [*found, *marked(type(config), Resume.NAMED, Resume.FIXED)])


def different_values(config: TrainConfig, saved: Path, keys: Sequence[str]) -> list[str]:
    """List changed options, as in "output.dtype fp16 -> fp32". Without a saved config there are none."""
    return [f"{key} {' '.join(before)} -> {' '.join(now)}" for key, before, now in changed_values(config, saved, keys)]


def changed_values(config: TrainConfig, saved: Path, keys: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """List (option, texts before, texts now) of keys that differ. Only keys in both configs count."""
    before, values = read_yaml(saved)[0] if saved.exists() else {}, as_flat(config)
    changed = []
    for key in [key for key in keys if key in values and key in before]:
        now = [entry_text(part) for part in (values[key] if isinstance(values[key], list) else [values[key]])]
        if before[key] != now:
            changed.append((key, before[key], now))
    return changed


def refuse_changed_data(manifest: "Manifest", digests: dict[str, str], allowed: bool) -> str | None:
    """Compare images and captions with the checkpoint's; return any warning. Unless `allowed`, raise ValueError."""
    changes = manifest.changes(digests)
    if not changes:
        return None
    text = f"the images or captions in {manifest.location} differ from those of the checkpoint: {changes.summary()}."
    if not allowed:
        option = "data.folders" if manifest.places else "data.folder"
        raise ValueError(
            f"{option}: {text} Put them back, or add --data.allow_change true to train on with the new ones."
        )
    return text


def held_out_indices(records: Sequence["Record"], config: ValidationConfig) -> set[int]:
    """Return the indices of the records held out for validation. The manifest names them; otherwise the given share is
    chosen by content. Equal images (same bytes) are never split between training and validation. A share above 0 holds
    out at least one image."""
    if any(record.split is not None for record in records):
        return {index for index, record in enumerate(records) if record.split == "validation"}
    if config.every == 0 or config.fraction == 0:
        return set()
    contents = sorted({record.sha256 for record in records})
    chosen = set(contents[: max(1, round(config.fraction * len(contents)))])
    return {index for index, record in enumerate(records) if record.sha256 in chosen}


def data_card(
    manifest: "Manifest",
    held_out: Collection[int],
    figures: Sequence[dict[str, object]],
    parameters: dict[str, int],
    warnings: Sequence[str],
    folders: "Sequence[FolderCount]" = (),
) -> str:
    """Return the contents of OUT/data_card.json, a summary of the dataset. `folders` are the parts of several."""
    counts = [len(record.captions) for record in manifest.records]
    card = {
        "location": manifest.location,
        "fingerprint": manifest.fingerprint,
        "num_pictures": len(manifest.records),
        "num_train": len(manifest.records) - len(held_out),
        "num_validation": len(held_out),
        "captions": {"num": sum(counts), "most_per_picture": max(counts)},
        "folders": [asdict(each) for each in folders],
        "buckets": list(figures),
        "parameters": parameters,
        "warnings": list(warnings),
    }
    return json.dumps(card, indent=1)
