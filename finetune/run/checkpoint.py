"""Checkpoints that are complete or absent, and verified before use.

They are written aside, checksummed and renamed; nothing is unpickled. A checkpoint folder has `trained.safetensors`,
`ema.safetensors` (if there is an average), `optimizer.pt` (tensors and numbers only, read with `weights_only`),
`state.json`, `config.yaml`, and `manifest.json` with the size and SHA-256 of each; with checkpoint.export also
`export/`, for other programs.
"""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetune.files import file_sha256, give_usual_modes, not_permitted, not_written, size_and_sha256, sync
from finetune.out_of_memory import explaining_out_of_memory, is_out_of_memory
from finetune.processes.saved_progress import newest_checkpoint_text
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


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    config_text: str,
    *,
    keep: int,
    write_export: Callable[[Path], object] | None = None,
) -> Path:
    """Write `folder/step_NNNNNN`; remove later ones and all but the `keep` newest. Later ones were passed over as
    damaged when the run resumed; counted, they would push sound ones out. `write_export` writes files for other
    programs into its folder export, which a resumed run does not need. Raises OSError with the path and size where the
    disk refuses, ValueError where the weights are no longer finite."""
    step = checkpoint.state["step"]
    refuse_non_finite_weights(checkpoint)
    target = folder / f"step_{step:06d}"
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    writers: dict[str, Callable[[Path], object]] = {
        "trained.safetensors": lambda path: safetensors.torch.save_file(contiguous(checkpoint.trained), path),
        "optimizer.pt": lambda path: save_optimizer(checkpoint.optimizer, path),
        "state.json": lambda path: path.write_text(json.dumps(checkpoint.state)),
        "config.yaml": lambda path: path.write_text(config_text, encoding="utf-8"),
    }
    ema = checkpoint.ema
    if ema is not None:
        writers["ema.safetensors"] = lambda path: safetensors.torch.save_file(contiguous(ema), path)
    try:
        if not folder.is_dir():
            folder.mkdir()  # not its parents: a run's folder that was deleted is not made again in silence
            sync(folder.parent)
        remove_leftovers(folder)
        temporary.mkdir()
        for name, write in writers.items():
            write(temporary / name)
        manifest = {name: size_and_sha256(temporary / name) for name in writers}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if write_export is not None:
            write_export(temporary / EXPORT)
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
        give_usual_modes(temporary)
        if target.exists():
            discard(target)
        temporary.rename(target)
        sync(folder)
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_out_of_memory(error):
            raise
        raise not_written(target, error, size_of(checkpoint)) from error
    steps = complete_steps(folder)
    beyond = [path for at, path in steps if at > step]
    rotated = [path for at, path in steps if at <= step][keep:]
    for old in beyond + rotated:
        discard(old)
    return target


def refuse_non_finite_weights(checkpoint: Checkpoint) -> None:
    """Raise ValueError if a weight is not finite."""
    for name, weight in [*checkpoint.trained.items(), *(checkpoint.ema or {}).items()]:
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"step {checkpoint.state['step']} made weights that are not finite numbers (first: {name}). Nothing "
                f"was saved of it. {newest_checkpoint_text()} Lower optim.lr and run the same command again."
            )


def save_optimizer(state: dict[str, object], path: Path) -> None:
    """Write an optimizer's state. Python's own file keeps the disk's error."""
    with path.open("wb") as file:
        torch.save(state, file)


def size_of(checkpoint: Checkpoint) -> int:
    """Return the bytes of all tensors of a checkpoint."""

    def count(value: object) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(count, value.values()))
        return sum(map(count, value)) if isinstance(value, list | tuple) else 0

    return count([checkpoint.trained, checkpoint.ema, checkpoint.optimizer])


def open_checkpoint(folder: Path) -> CheckpointState:
    """Return the state of a checkpoint whose files are all intact. Raises ValueError that names the damaged one.
    Tensors are not read yet, but their files are those of a checkpoint."""
    files = verify(folder)
    for name in ("trained.safetensors", "ema.safetensors"):
        if name in files:
            read(folder / name, read_names)
    read(folder / "optimizer.pt", read_optimizer)
    return read(folder / "state.json", read_state)


def read_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    with safe_open(path, "pt") as file:
        return list(file.keys())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the state of an intact checkpoint; ValueError names a damaged file."""
    files, ema = read(folder / MANIFEST, read_manifest), folder / "ema.safetensors"
    with explaining_out_of_memory(
        f"while {folder} was read",
        "Nothing is wrong with it. Launch fewer processes or use a machine with more memory, and run the same command "
        "again.",
    ):
        return Checkpoint(
            trained=read(folder / "trained.safetensors", safetensors.torch.load_file),
            ema=read(ema, safetensors.torch.load_file) if ema.name in files else None,
            optimizer=read(folder / "optimizer.pt", read_optimizer),
            state=read(folder / "state.json", read_state),
        )


def verify(folder: Path) -> set[str]:
    """Compare every file with the manifest; return the names. Raises ValueError with the first that differs."""
    expected = read(folder / MANIFEST, read_manifest)
    for needed in ("trained.safetensors", "optimizer.pt", "state.json", "config.yaml"):
        if needed not in expected:
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


def discard(folder: Path) -> None:
    """Remove a checkpoint so that a crash leaves it whole or gone."""
    trash = folder.with_name(f".tmp-removed-{folder.name}-{os.getpid()}")
    folder.rename(trash)
    remove(trash)


def remove_leftovers(folder: Path) -> None:
    """Remove half written or half removed checkpoints of killed runs. The caller has the run's lock."""
    for path in folder.glob(".tmp-*"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU in the dense layout of safetensors."""
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
