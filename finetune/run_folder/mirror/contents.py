"""The files of a run folder and its mirror, by name.

A mirror has the files of the run folder under the same names, and two of its own. `mirror.json` names the run and the
start of it that writes there. `mirror_files.json` has size and SHA-256 of every file outside checkpoints; those of a
checkpoint are in its manifest, which arrives last, so a checkpoint is whole or not there.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.run_folder.checkpoints import STEP_FOLDER

CLAIM, FILES, MANIFEST = "mirror.json", "mirror_files.json", "manifest.json"
NOT_MIRRORED = ("wandb", "mlflow", "trackio")
"""Databases of trackers that are open while the run trains; they have servers of their own."""
CHECKPOINT = re.compile(r"((?:.+/)?checkpoints)/step_(\d{6,})(?=/|$)")
HELD = (".json", ".jsonl", ".yaml", ".log", ".html")
"""Endings of the files that change in training, with `tfevents`; they are copied as they were at one moment."""


@dataclass(frozen=True, order=True)
class Step:
    """The name of a checkpoint in a run folder."""

    folder: str
    """As checkpoints, or autoencoder/checkpoints of a stage."""
    number: int

    @property
    def name(self) -> str:
        return f"{self.folder}/step_{self.number:06d}"

    @property
    def manifest(self) -> str:
        return f"{self.name}/{MANIFEST}"


def step_of(name: str) -> Step | None:
    """Return the checkpoint that a file belongs to."""
    found = CHECKPOINT.match(name)
    return Step(found[1], int(found[2])) if found else None


def newest_first(steps: Iterable[Step]) -> list[Step]:
    """Sort checkpoints by their steps."""
    return sorted(steps, key=lambda step: step.number, reverse=True)


def newest_by_folder(steps: Iterable[Step]) -> dict[str, int]:
    """Return the newest step of every stage."""
    found: dict[str, int] = {}
    for step in steps:
        found[step.folder] = max(step.number, found.get(step.folder, 0))
    return found


def num_steps(steps: Iterable[Step]) -> int:
    """Count the steps that all stages have saved."""
    return sum(newest_by_folder(steps).values())


def whole_steps(names: Collection[str]) -> list[Step]:
    """Return the checkpoints in a mirror whose manifest has arrived."""
    found = {step for name in names if (step := step_of(name)) is not None}
    return newest_first(step for step in found if step.manifest in names)


def local_contents(folder: Path) -> tuple[list[str], list[Step]]:
    """List the files of a run folder outside checkpoints, and its checkpoints. Those that change come first, as they
    refer to the others."""
    files: list[str] = []
    steps: list[Step] = []
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_MIRRORED)
        if inside.name == "checkpoints":
            stages = [int(match[1]) for name in folders if (match := STEP_FOLDER.fullmatch(name))]
            steps += [Step(inside.as_posix(), number) for number in stages]
            folders[:] = [name for name in folders if not STEP_FOLDER.fullmatch(name)]
        files += [(inside / name).as_posix() for name in names if not name.startswith(".")]
    mirrored = [name for name in files if name not in (CLAIM, FILES)]
    return sorted(mirrored, key=lambda name: (not is_held(name), name.count("/"), name)), newest_first(steps)


def is_held(name: str) -> bool:
    """Tell if a file may change while it is copied."""
    return name.endswith(HELD) or "tfevents" in name.rpartition("/")[2]


def holds_run(folder: Path) -> bool:
    """Tell if a folder holds a run. A start that failed may have left other files."""
    files, steps = local_contents(folder)
    return bool(steps) or not {"config.yaml", "metrics.jsonl", "run.json"}.isdisjoint(files)


@dataclass(frozen=True)
class Facts:
    """Size and hash of a file, and what its place held before."""

    size: int
    sha256: str
    before: tuple[str | None, ...] = ()
    """Hashes that the place may have until the upload is done, None where there may be no file."""

    def accepts(self, sha256: str) -> bool:
        """Tell if a hash is the recorded one, or the one before."""
        return sha256 in (self.sha256, *self.before)


def record_text(files: dict[str, Facts]) -> bytes:
    """Write the record of the files outside checkpoints."""
    content = {
        name: {"size": facts.size, "sha256": facts.sha256, **({"before": facts.before} if facts.before else {})}
        for name, facts in sorted(files.items())
    }
    return json.dumps(content, indent=1).encode()


def read_record(data: bytes, url: str) -> dict[str, Facts]:
    """Read that record. Raises ValueError where it is damaged, or names a place outside the run folder."""
    try:
        content: dict[str, Any] = json.loads(data)
        found = {
            name: Facts(each["size"], each["sha256"], tuple(each.get("before", ()))) for name, each in items(content)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"output.mirror: {url}/{FILES} is not what a run writes. Give another output.mirror, or restore the file."
        ) from error
    return found


def items(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield entries whose names stay within a folder."""
    for name, each in content.items():
        if not is_inside(name):
            raise ValueError(name)
        yield name, each


def is_inside(name: str) -> bool:
    """Tell if a name stays within the mirrored part of a folder."""
    parts = name.split("/")
    return all(part and not part.startswith(".") and "\\" not in part for part in parts) and ":" not in parts[0]
