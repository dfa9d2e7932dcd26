"""Files that are complete or absent, sentences for a disk that refuses, and the lock of a run's folder; torch-free."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def sync(path: Path) -> None:
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Forces a folder with every file and folder below it to disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def unfinished(path: Path) -> Path:
    """Returns the name that something has until it is complete; without .safetensors at its end no tool loads it."""
    return path.with_name(f".{path.name}.unfinished")


def put_in_place(temporary: Path, path: Path) -> Path:
    """Renames a complete, synced file or folder to its final name and makes the rename last; returns `path`."""
    temporary.replace(path)
    sync(path.parent)
    return path


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which gets its name `path` when the block ends without an error; else nothing is left.

    What a killed process left behind is cleared first, so that two must not write the same path at a time.
    """
    temporary = unfinished(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a text file in one step that lasts through a power cut."""
    data = text.encode("utf-8")
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with writing(path, len(data)):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Makes an OSError inside say which path it was about, and what room there was."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error, num_bytes) from error


def not_written(path: Path, error: BaseException, num_bytes: int | None = None) -> OSError:
    """Returns a failure to write as one OSError that names the path, the reason, and the bytes needed and free."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    number = errno_of(error)
    needed = "" if num_bytes is None else f" it needs about {num_bytes:,} bytes and"
    return OSError(
        number,
        f"{path} could not be written: {os.strerror(number)} ({errno.errorcode.get(number, number)});{needed} "
        f"{shutil.disk_usage(folder).free:,} are free there. What was saved before is untouched: make room or mend the "
        "disk, then run the same command again.",
    )


def errno_of(error: BaseException | None) -> int:
    """Returns the number of the system's error behind an exception, EIO where none is found.

    safetensors states it in its text; torch.save reports a broken archive and hides the error in the context.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return errno.EIO


def lock_folder(folder: Path) -> TextIO:
    """Returns an open file that holds the run's lock until it is closed or this process ends.

    Raises ValueError where another process holds it. The lock is the process's (lockf), not the open file's (flock),
    which the workers of a data loader would inherit and hold on to for seconds after their parent was killed.
    """
    file = (folder / ".lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"output.folder: {folder} is in use by {owner}. Wait for that run to end, stop it, or choose another "
            "folder."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file
