"""Atomic files and folders, write errors, and the run folder's lock. Torch-free."""

import contextlib
import errno
import hashlib
import importlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

LOCK_START, MOST_SHARES = 2**30, 1024
"""The bytes that locks take on Windows."""
UMASK = os.umask(0o077)
OWNER_ONLY = 0o600
LEFT_BEHIND_SECONDS = 3600.0
"""A small file is written in far less; older ones were left by a kill."""
os.umask(UMASK)  # reading it sets it, so this happens once, before there are threads


def sync(path: Path) -> None:
    """Force a file or folder to disk. Windows flushes only files that are open for writing, and no folders."""
    is_windows = sys.platform == "win32"
    if is_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder with every file and folder below it to disk."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            sync(path)


def give_usual_modes(place: Path) -> None:
    """Give a file, or a folder's files, the mode of the umask. safetensors lets only the owner read its files. Other
    modes stay, as do those of folders, which may pass on a group."""
    for path in place.rglob("*") if place.is_dir() else [place]:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == OWNER_ONLY:
            path.chmod(0o666 & ~UMASK)


def is_of_another_user(path: Path) -> bool:
    """Check whether a file exists and belongs to another user."""
    return sys.platform != "win32" and path.exists() and path.stat().st_uid != os.geteuid()


def may_read(path: Path) -> bool:
    """Check whether this user may read a file. safetensors reports others as absent."""
    try:
        path.open("rb").close()
    except OSError as error:
        return not isinstance(error, PermissionError)
    return True


def not_permitted(path: Path) -> PermissionError:
    """Return the error for a file that this user may not read."""
    return PermissionError(
        errno.EACCES,
        f"{path} may not be read by this user (permission denied). Run as its owner, or let the owner run: chmod a+rX",
    )


def unfinished(path: Path) -> Path:
    """Return the temporary name of an incomplete file or folder. No tool takes it for weights."""
    return path.with_name(f".{path.name}.unfinished")


def put_in_place(temporary: Path, path: Path) -> Path:
    """Rename a complete, synced file or folder to its final name. Makes the rename last; returns `path`."""
    if temporary.is_file():
        give_usual_modes(temporary)
    temporary.replace(path)
    sync(path.parent)
    return path


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Open a folder to fill, which gets its name `path` on success. Otherwise nothing is left. Leftovers of a killed
    process are removed first, so two processes must not write the same path at a time."""
    temporary = unfinished(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        give_usual_modes(temporary)
        sync_folder(temporary)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def aside(path: Path) -> Path:
    """Return a name beside `path` that no other writer uses. Process ids repeat in containers that share a folder."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", platform.node())[:32]
    return path.with_name(f".tmp-{path.name}-{host}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_left_behind(folder: Path) -> None:
    """Remove old leftovers of killed processes. Recent ones may be another process's, in a shared folder."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):  # another process may be doing the same, or own the file
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_SECONDS:
                path.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step that survives a power cut."""
    data = text.encode("utf-8")
    temporary = aside(path)
    with writing(path, len(data)):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_and_sha256(path: Path) -> dict[str, int | str]:
    """Return size and SHA-256 of a file, for comparison."""
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


@contextlib.contextmanager
def writing(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Make an OSError inside name its path and the free bytes."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error, num_bytes) from error


def not_written(path: Path, error: BaseException, num_bytes: int | None = None) -> OSError:
    """Return a failed write's OSError: path, reason, bytes needed and free."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    number = errno_of(error)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OSError(
            number,
            f"{path} could not be written: {os.strerror(number)} ({errno.errorcode[number]}). What was saved before is "
            "unchanged. Use a folder that this user may write to, or let its owner change the permissions.",
        )
    needed = "" if num_bytes is None else f" it needs about {num_bytes:,} bytes and"
    return OSError(
        number,
        f"{path} could not be written: {os.strerror(number)} ({errno.errorcode.get(number, number)});{needed} "
        f"{shutil.disk_usage(folder).free:,} are free there. What was saved before is unchanged. Make room or mend the "
        "disk, then run the same command again.",
    )


def errno_of(error: BaseException | None) -> int:
    """Return the system's error number behind an exception, EIO without one. safetensors has it in its text; torch.save
    reports a broken archive and hides the error in the context."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return errno.EIO


def lock_folder(folder: Path) -> TextIO:
    """Lock a run's folder until the returned file is closed. Raises ValueError where another process has the lock. The
    lock is the process's, not the open file's, which the workers of a data loader would inherit and keep for seconds
    after their parent was killed."""
    with writing(folder / ".lock"):
        file = (folder / ".lock").open("a+")
    if not try_lock(file.fileno(), belongs_to="process"):
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"output.folder: {folder} is in use by {owner}. Wait for that run to end, stop it, or choose another "
            "folder."
        )
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


def try_lock(descriptor: int, *, belongs_to: Literal["process", "open file"], is_shared: bool = False) -> bool:
    """Lock an open file without waiting. Returns False if others have a lock that excludes it. The lock ends with the
    process, however that ends. Shared locks exclude only those that are not shared."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return _try_lock_on_windows(descriptor, is_shared)
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        (fcntl.lockf if belongs_to == "process" else fcntl.flock)(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _try_lock_on_windows(descriptor: int, is_shared: bool) -> bool:
    """Lock bytes behind the file's end, so its text stays readable. Windows' own lock of bytes is never shared:
    each that shares takes one byte, and one that does not takes all."""
    msvcrt = importlib.import_module("msvcrt")
    places = range(LOCK_START, LOCK_START + MOST_SHARES) if is_shared else [LOCK_START]
    for place in places:
        os.lseek(descriptor, place, os.SEEK_SET)
        with contextlib.suppress(PermissionError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1 if is_shared else MOST_SHARES)
            return True
    return False


def refuse_lost_folder(lock: TextIO | None, folder: Path) -> None:
    """Raise ValueError if the folder of `lock` is gone or was replaced."""
    if lock is None:
        return
    try:
        is_same = os.path.samestat(os.fstat(lock.fileno()), (folder / ".lock").stat())
    except OSError:
        is_same = False
    if not is_same:
        raise ValueError(
            f"output.folder: {folder} was deleted, moved or replaced while the run was going, so nothing can be saved "
            "there. Move it back and run the same command again: it continues from the last checkpoint in it. Where it "
            "is gone, the same command starts again."
        )
