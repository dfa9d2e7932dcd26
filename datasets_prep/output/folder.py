"""The output folder: its lock, its state, and edits since."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets_prep.output.listings import write_text
from finetune.files import file_sha256, try_lock
from finetune.json_text import parse_json
from finetune.plurals import first_few

OWN_FOLDER = ".prep"
"""Contains the lock, the state and all caches."""
LISTINGS = ("metadata.jsonl", "rejected.jsonl")


@dataclass(frozen=True)
class State:
    """The state of a run before writing and after finishing."""

    inputs: str
    """Hash of all that the result depends on."""
    listings: Mapping[str, str]
    """SHA-256 of each listing and of README.md."""
    earlier: Mapping[str, str] = field(default_factory=dict)
    """The listings that are being replaced."""
    is_done: bool = False
    is_complete: bool = True
    """False where a captioner failed on some images; the next run tries again."""
    num_pictures: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Folder -> number of files in it, and their bytes."""


class NothingUsable(ValueError):
    """The source has no image; a newly made folder is removed."""


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
        return State(**parse_json((own / "state.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_state(own: Path, state: State) -> None:
    """Replace the state."""
    write_text(own / "state.json", json.dumps(asdict(state), indent=1) + "\n")


def is_whole(output: Path, state: State) -> bool:
    """Check that everything in the state is there. Contents are not checked."""
    return (
        state.is_done
        and state.is_complete
        and all((output / name).is_file() for name in (*LISTINGS, "report.html"))
        and all((output / name).is_dir() and extent(output / name) == list(both) for name, both in state.files.items())
    )


def extent(folder: Path) -> list[int]:
    """Count the visible files of a folder, and their bytes."""
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return [len(sizes), sum(sizes)]


def check_unedited(output: Path, state: State | None) -> None:
    """Refuse to replace listings that a user has edited."""
    edited = [name for name in LISTINGS if not is_own(output / name, state)]
    if edited:
        raise ValueError(
            f"output: {output} has to be made again, but this was edited and would be lost: {first_few(edited)}. "
            "Captions and choices that last are made with `python -m datasets_prep review`. Move what was edited away, "
            "or give another output."
        )


def is_own(path: Path, state: State | None) -> bool:
    """Check that a file is as this command wrote it, or missing."""
    if not path.exists():
        return True
    known = [] if state is None else [state.listings, state.earlier]
    return file_sha256(path) in [each.get(path.name) for each in known]
