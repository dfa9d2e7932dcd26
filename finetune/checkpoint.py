"""Checkpoints that are complete or absent: written aside, checksummed, renamed; verified before use; nothing is
unpickled.

A checkpoint folder holds `trained.safetensors`, `ema.safetensors` (where there is one), `optimizer.pt` (tensors and
numbers only, read with `weights_only`), `state.json`, `config.yaml`, and `manifest.json` with the size and SHA-256 of
each.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

MANIFEST = "manifest.json"
STEP_FOLDER = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from, after step `state["step"]`."""

    trained: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, config_text: str, *, keep: int) -> Path:
    """Writes `folder/step_NNNNNN` and removes all but the `keep` newest; raises OSError with the path and size where it
    cannot."""
    target = folder / f"step_{checkpoint.state['step']:06d}"
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    writers: dict[str, Callable[[Path], Any]] = {
        "trained.safetensors": lambda path: safetensors.torch.save_file(contiguous(checkpoint.trained), path),
        "optimizer.pt": lambda path: torch.save(checkpoint.optimizer, path),
        "state.json": lambda path: path.write_text(json.dumps(checkpoint.state)),
        "config.yaml": lambda path: path.write_text(config_text, encoding="utf-8"),
    }
    ema = checkpoint.ema
    if ema is not None:
        writers["ema.safetensors"] = lambda path: safetensors.torch.save_file(contiguous(ema), path)
    remove_leftovers(folder)
    temporary.mkdir(parents=True)
    try:
        for name, write in writers.items():
            write(temporary / name)
        manifest = {
            name: {"size": (temporary / name).stat().st_size, "sha256": digest(temporary / name)} for name in writers
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        if target.exists():
            discard(target)
        temporary.rename(target)
        sync(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise explained(error, target, size_of(checkpoint)) from error
    for _, old in complete_steps(folder)[keep:]:
        discard(old)
    return target


def explained(error: Exception, target: Path, needed: int) -> OSError:
    """Returns the failure as one OSError that names the path, the bytes needed and the bytes free."""
    free = shutil.disk_usage(target.parent).free
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    if "No space left" in str(error) or free < needed:
        number = errno.ENOSPC
    reason = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
    return OSError(
        number,
        f"the checkpoint {target} could not be written: {reason}; it needs about {needed:,} bytes and {free:,} are "
        "free. Earlier checkpoints are untouched: make room and run the same command again.",
    )


def size_of(checkpoint: Checkpoint) -> int:
    """Returns the bytes of all tensors of a checkpoint."""

    def count(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(count, value.values()))
        return sum(map(count, value)) if isinstance(value, list | tuple) else 0

    return count([checkpoint.trained, checkpoint.ema, checkpoint.optimizer])


def load_checkpoint(folder: Path) -> Checkpoint:
    """Returns the verified checkpoint; raises ValueError that names the damaged file."""
    verify(folder)
    ema = folder / "ema.safetensors"
    return Checkpoint(
        trained=safetensors.torch.load_file(folder / "trained.safetensors"),
        ema=safetensors.torch.load_file(ema) if ema.exists() else None,
        optimizer=torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
        state=json.loads((folder / "state.json").read_text()),
    )


def verify(folder: Path) -> None:
    """Compares every file with the manifest; raises ValueError that names the first that differs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} is missing or damaged") from error
    for needed in ("trained.safetensors", "optimizer.pt", "state.json"):
        if needed not in expected:
            raise ValueError(f"{folder / MANIFEST} does not list {needed}")
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if path.stat().st_size != size or digest(path) != sha256:
            raise ValueError(f"{path} is damaged: its checksum differs from the manifest's")


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """Returns the newest checkpoint that passes verification, None where there is none at all; warns of each one passed
    over.

    Raises ValueError where checkpoints exist and none is usable: starting anew would throw the run away.
    """
    steps = complete_steps(folder)
    for _, path in steps:
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            warn(f"{error}; falling back to the checkpoint before it.")
    if steps:
        raise ValueError(
            f"resume: none of the {len(steps)} checkpoints in {folder} is intact. Use another output.folder."
        )
    return None


def complete_steps(folder: Path) -> list[tuple[int, Path]]:
    """Returns (step, folder) of all checkpoints, newest first, by the number in the name."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := STEP_FOLDER.fullmatch(path.name))]
    return sorted(found, reverse=True)


def discard(folder: Path) -> None:
    """Removes a checkpoint in a way that a crash leaves it whole or gone."""
    trash = folder.with_name(f".tmp-removed-{folder.name}-{os.getpid()}")
    folder.rename(trash)
    shutil.rmtree(trash)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed runs left half written or half removed; the caller holds the run's lock."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the CPU in the dense layout that safetensors stores."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a text file in one step."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)


def lock_folder(folder: Path) -> TextIO:
    """Returns an open file that holds the run's lock until it is closed or the process ends; raises ValueError where it
    is taken."""
    file = (folder / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        raise ValueError(
            f"output.folder: {folder} is in use by {owner}. Wait for that run to end, stop it, or choose another "
            "folder."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file
