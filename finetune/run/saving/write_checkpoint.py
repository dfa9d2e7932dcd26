"""Write checkpoints aside, then rename them, so one is complete or absent."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune.files import give_usual_modes, not_written, size_and_sha256, sync
from finetune.out_of_memory import is_out_of_memory
from finetune.processes.ranks import ranks
from finetune.processes.saved_progress import newest_checkpoint_text
from finetune.run.checkpoint import EXPORT, MANIFEST, Checkpoint, part_name
from finetune.run_folder.checkpoints import complete_steps

Writers = dict[str, Callable[[Path], object]]
"""What writes each file, by name."""
WriteExport = Callable[[Path], object]
"""Writes files for other programs into a folder."""
Sizes = dict[str, Any]
"""Size and SHA-256 of each file, by name."""


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    config_text: str,
    *,
    keep: int,
    write_export: WriteExport | None = None,
) -> Path:
    """Write `folder/step_NNNNNN`; remove later ones and all but the `keep` newest. Later ones were passed over as
    damaged when the run resumed; counted, they would push sound ones out. `write_export` writes files for other
    programs into its folder export, which a resumed run does not need. Raises OSError with the path and size where the
    disk refuses, ValueError where the weights are no longer finite."""
    refuse_non_finite_weights(checkpoint)
    target = folder / f"step_{checkpoint.state['step']:06d}"
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    with explaining_refusal(target, temporary, checkpoint):
        make_place(folder, temporary)
        manifest = write_files(temporary, tensor_writers(checkpoint) | text_writers(checkpoint, config_text))
        put_in_place(temporary, target, manifest, write_export)
    rotate(folder, checkpoint.state["step"], keep)
    return target


@contextlib.contextmanager
def explaining_refusal(target: Path, temporary: Path, checkpoint: Checkpoint) -> Iterator[None]:
    """Remove what was written where the disk refuses; explain it."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_out_of_memory(error):
            raise
        raise not_written(target, error, size_of(checkpoint)) from error


def make_place(folder: Path, temporary: Path) -> None:
    """Make the folder that a checkpoint is written into. What broken-off ones left is removed."""
    if not folder.is_dir():
        folder.mkdir()  # not its parents: a run's folder that was deleted is not made again in silence
        sync(folder.parent)
    remove_leftovers(folder)
    temporary.mkdir()


def tensor_writers(checkpoint: Checkpoint, part: int = 0, num_parts: int = 1) -> Writers:
    """Return what writes the tensors, by file name. A checkpoint may be one part of several."""
    ema = checkpoint.ema
    found: Writers = {
        "trained.safetensors": lambda path: safetensors.torch.save_file(contiguous(checkpoint.trained), path),
        "optimizer.pt": lambda path: save_optimizer(checkpoint.optimizer, path),
    }
    if ema is not None:
        found["ema.safetensors"] = lambda path: safetensors.torch.save_file(contiguous(ema), path)
    return {part_name(name, part, num_parts): write for name, write in found.items()}


def text_writers(checkpoint: Checkpoint, config_text: str) -> Writers:
    """Return what writes the rest, by file name."""
    return {
        "state.json": lambda path: path.write_text(json.dumps(checkpoint.state)),
        "config.yaml": lambda path: path.write_text(config_text, encoding="utf-8"),
    }


def write_files(temporary: Path, writers: Writers) -> Sizes:
    """Write files to the disk; return their sizes and hashes by name."""
    for name, write in writers.items():
        write(temporary / name)
    found = {name: size_and_sha256(temporary / name) for name in writers}
    for name in writers:
        sync(temporary / name)
    return found


def put_in_place(temporary: Path, target: Path, manifest: Sizes, write_export: WriteExport | None = None) -> None:
    """Add what is not in the manifest, and rename the checkpoint."""
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(temporary / MANIFEST)
    if write_export is not None:
        write_export(temporary / EXPORT)
        for path in (temporary / EXPORT).rglob("*"):
            sync(path)
    sync(temporary)
    give_usual_modes(temporary)
    if target.exists():
        discard(target)
    temporary.rename(target)
    sync(target.parent)


def rotate(folder: Path, step: int, keep: int) -> None:
    """Remove checkpoints after `step`, and all but the `keep` newest others."""
    steps = complete_steps(folder)
    beyond = [path for at, path in steps if at > step]
    rotated = [path for at, path in steps if at <= step][keep:]
    for old in beyond + rotated:
        discard(old)


def save_in_parts(
    folder: Path, checkpoint: Checkpoint, config_text: str, *, keep: int, write_export: WriteExport | None = None
) -> None:
    """Write a checkpoint of which every process has a part. All take part, and all raise where one fails."""
    step, rank, num = checkpoint.state["step"], ranks().rank, ranks().size
    target = folder / f"step_{step:06d}"
    temporary = Path(all_or_none(lambda: str(made_place(folder, target)) if rank == 0 else "")[0])

    def write() -> str:
        refuse_non_finite_weights(checkpoint)
        texts = text_writers(checkpoint, config_text) if rank == 0 else {}
        with explaining_refusal(target, temporary, checkpoint):
            return json.dumps(write_files(temporary, tensor_writers(checkpoint, rank, num) | texts))

    manifests = all_or_none(write)

    def finish() -> str:
        if rank == 0:
            manifest = {name: entry for text in manifests for name, entry in json.loads(text).items()}
            with explaining_refusal(target, temporary, checkpoint):
                put_in_place(temporary, target, dict(sorted(manifest.items())), write_export)
            rotate(folder, step, keep)
        return ""

    all_or_none(finish)


def made_place(folder: Path, target: Path) -> Path:
    """Make and return the folder that the parts are written into."""
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    make_place(folder, temporary)
    return temporary


class Outcome(TypedDict):
    """The outcome of a process's work."""

    text: str
    error: str | None


def all_or_none(work: Callable[[], str]) -> list[str]:
    """Do work on all processes, and return the texts by rank. Raises everywhere where it failed on one."""
    own: Outcome = {"text": "", "error": None}
    failure = None
    try:
        own["text"] = work()
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        failure, own["error"] = error, str(error)
    outcomes: list[Outcome] = [json.loads(text) for text in ranks().exchange(json.dumps(own))]
    if failure is not None:
        raise failure
    for rank, outcome in enumerate(outcomes):
        if outcome["error"] is not None:
            raise OSError(f"process {rank} could not write its part of the checkpoint: {outcome['error']}")
    return [outcome["text"] for outcome in outcomes]


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
