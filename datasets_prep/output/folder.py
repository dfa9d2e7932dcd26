"""The output folder: who may write it, what an earlier run left there, and whether somebody edited it since."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets_prep.output.listings import write_text
from finetune.files import file_sha256, try_lock
from finetune.plurals import first_few

OWN_FOLDER = ".prep"
"""Holds the lock, the state, and what was measured."""
LISTINGS = ("metadata.jsonl", "rejected.jsonl")


@dataclass(frozen=True)
class State:
    """A run's notes before writing and after finishing."""

    inputs: str
    """Hash of all that the result depends on."""
    listings: Mapping[str, str]
    """SHA-256 of each listing and of README.md."""
    earlier: Mapping[str, str] = field(default_factory=dict)
    """Those that are being replaced."""
    is_done: bool = False
    is_complete: bool = True
    """False where a captioner failed on some images, which the next run asks again."""
    num_pictures: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Folder -> number of files in it, and of their bytes."""


class NothingUsable(ValueError):
    """The source holds no image; a folder that was made for the result goes again."""


@contextmanager
def workplace(output: Path, *, is_shard: bool) -> Iterator[Path]:
    """Lock OUTPUT/.prep; shards of one preparation may share it."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / OWN_FOLDER).is_dir())):
        raise ValueError(f"output: {output} exists and was not written by this command. Give the name of a new folder.")
    own, is_new = output / OWN_FOLDER, not output.exists()
    own.mkdir(parents=True, exist_ok=True)
    lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT, 0o666)  # the lock ends with the process, however that ends
    try:
        if not try_lock(lock, belongs_to="open file", is_shared=is_shard):
            raise ValueError(f"output: another preparation is writing {output}. Wait until it has ended.")
        yield own
    except NothingUsable:
        if is_new:
            shutil.rmtree(output)
        raise
    finally:
        os.close(lock)


def read_state(own: Path) -> State | None:
    """Read the latest state; None if missing or unreadable."""
    try:
        return State(**json.loads((own / "state.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_state(own: Path, state: State) -> None:
    """Replaces the state."""
    write_text(own / "state.json", json.dumps(asdict(state), indent=1) + "\n")


def is_whole(output: Path, state: State) -> bool:
    """Whether everything is there that the state says was written; contents are taken on trust."""
    return (
        state.is_done
        and state.is_complete
        and all((output / name).is_file() for name in (*LISTINGS, "report.html"))
        and all((output / name).is_dir() and extent(output / name) == list(both) for name, both in state.files.items())
    )


def extent(folder: Path) -> list[int]:
    """Returns how many visible files a folder holds, and how many bytes they have."""
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return [len(sizes), sum(sizes)]


def check_unedited(output: Path, state: State | None) -> None:
    """Refuses to replace listings that a user has put work into."""
    edited = [name for name in LISTINGS if not is_own(output / name, state)]
    if edited:
        raise ValueError(
            f"output: {output} has to be made again, but this was edited and would be lost: {first_few(edited)}. "
            "Captions and choices that last are made with `python -m datasets_prep review`. Move what was edited away, "
            "or give another output."
        )


def is_own(path: Path, state: State | None) -> bool:
    """Whether a file is as this command wrote it, or is not there."""
    if not path.exists():
        return True
    known = [] if state is None else [state.listings, state.earlier]
    return file_sha256(path) in [each.get(path.name) for each in known]
