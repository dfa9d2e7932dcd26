"""Checkpoints that are complete or absent, and verified before use.

Nothing is unpickled. A checkpoint folder has `trained.safetensors`, `ema.safetensors` (if there is an average),
`optimizer.pt` (tensors and numbers only, read with `weights_only`), `state.json`, `config.yaml`, and `manifest.json`
with the size and SHA-256 of each. Processes that each hold a part of the weights write parts of the first three, such
as `optimizer-00001-of-00002.pt`. Any number of processes reads either. With checkpoint.export there is also `export/`,
for other programs.
"""

import json
import pickle
import re
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetune.files import file_sha256, not_permitted
from finetune.out_of_memory import explaining_out_of_memory, is_out_of_memory
from finetune.run_folder.checkpoints import CheckpointState, complete_steps

Content = TypeVar("Content")

MANIFEST, EXPORT = "manifest.json", "export"
STATE_KEYS = {"step", "window", "pending", "metrics_bytes", "base_loss", "elapsed_seconds", "scaler", "dataset"}
STATE_KEYS |= {"base_sha256", "precision", "global_batch_size"}
UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, EOFError)
UNREADABLE += (RuntimeError, SafetensorError, pickle.UnpicklingError, struct.error)
"""What reading a file raises that holds something else than it should; RecursionError is a RuntimeError."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from, after step `state["step"]`."""

    trained: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, object]
    state: CheckpointState


def part_name(name: str, part: int, num: int) -> str:
    """Name a part of one of the files with tensors. It is the file's own name where there is one part."""
    stem, _, ending = name.rpartition(".")
    return name if num == 1 else f"{stem}-{part + 1:05d}-of-{num:05d}.{ending}"


def parts_of(name: str, files: Collection[str]) -> list[str]:
    """List the files of a checkpoint that hold one of its contents. Empty where one is missing."""
    if name in files:
        return [name]
    stem, _, ending = name.rpartition(".")
    found = {file: re.fullmatch(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{ending}", file) for file in sorted(files)}
    parts = {file: int(match[1]) for file, match in found.items() if match}
    return list(parts) if set(parts.values()) == {len(parts)} else []


def open_checkpoint(folder: Path) -> CheckpointState:
    """Return the state of a checkpoint whose files are all intact. Raises ValueError that names the damaged one.
    Tensors are not read yet, but their files are those of a checkpoint."""
    files = verify(folder)
    for name in [*parts_of("trained.safetensors", files), *parts_of("ema.safetensors", files)]:
        read(folder / name, read_names)
    for name in parts_of("optimizer.pt", files):
        read(folder / name, read_optimizer)
    return read(folder / "state.json", read_state)


def read_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    with safe_open(path, "pt") as file:
        return list(file.keys())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the state of an intact checkpoint; ValueError names a damaged file."""
    files = read(folder / MANIFEST, read_manifest)
    with explaining_out_of_memory(
        f"while {folder} was read",
        "Nothing is wrong with it. Launch fewer processes or use a machine with more memory, and run the same command "
        "again.",
    ):
        averages = parts_of("ema.safetensors", files)
        return Checkpoint(
            trained=read_tensors(folder, parts_of("trained.safetensors", files)),
            ema=read_tensors(folder, averages) if averages else None,
            optimizer=joined([read(folder / name, read_optimizer) for name in parts_of("optimizer.pt", files)]),
            state=read(folder / "state.json", read_state),
        )


def read_tensors(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Read the tensors of several files."""
    found: dict[str, Tensor] = {}
    for name in names:
        found |= read(folder / name, safetensors.torch.load_file)
    return found


def joined(states: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Join an optimizer's state from its parts."""
    weights = {number: state for part in states for number, state in part["state"].items()}
    return {**states[0], "state": dict(sorted(weights.items()))} if len(states) > 1 else states[0]


def verify(folder: Path) -> set[str]:
    """Compare every file with the manifest; return the names. Raises ValueError with the first that differs."""
    expected = read(folder / MANIFEST, read_manifest)
    for needed in ("trained.safetensors", "optimizer.pt", "state.json", "config.yaml"):
        if not parts_of(needed, expected):
            raise ValueError(f"{folder / MANIFEST} does not list {needed}")
    for name, recorded in expected.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if read(path, lambda path: (path.stat().st_size, file_sha256(path))) != recorded:
            raise ValueError(f"{path} is damaged: its checksum differs from the manifest's")
    return set(expected)


def read(path: Path, reader: Callable[[Path], Content]) -> Content:
    """Read a file with `reader`; ValueError names the file where that fails."""
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except PermissionError as error:  # not the file's fault, so an older checkpoint would not help
        raise not_permitted(path) from error
    except UNREADABLE as error:
        if is_out_of_memory(error):  # not the fault of the file, which must not be passed over
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(f"{path} does not read ({type(error).__name__}: {reason})") from error


def read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Return the size and SHA-256 of every file by name."""
    return {name: (entry["size"], entry["sha256"]) for name, entry in json.loads(path.read_text()).items()}


def read_optimizer(path: Path) -> dict[str, object]:
    """Return an optimizer's state, mapped to its file until it is copied. Anything but tensors and plain values is
    refused, and nothing of it is run."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_state(path: Path) -> CheckpointState:
    """Read state.json; ValueError where something is absent."""
    state = json.loads(path.read_text())
    if not isinstance(state, dict) or not state.keys() >= STATE_KEYS or not isinstance(state["step"], int):
        raise ValueError("not what a run writes")
    return cast(CheckpointState, state)


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, CheckpointState] | None:
    """Return the newest intact checkpoint and its state, None without any. Warns of each one passed over. Raises
    ValueError where checkpoints exist and none is usable: starting again would throw the run away."""
    steps, reasons = complete_steps(folder), []
    for _, path in steps:
        try:
            found = path, open_checkpoint(path)
        except ValueError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warn(f"{reason}; falling back to the checkpoint before it.")
        return found
    if steps:
        listed = "".join(f"\n{reason}." for reason in reasons)
        raise ValueError(
            f"resume: no intact checkpoint in {folder}, which has {len(steps):,}. Restore one of these files, or use "
            f"another output.folder to start again.{listed}"
        )
    return None
