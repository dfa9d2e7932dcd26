"""Locks: who excludes whom, with the system's own locks and with those of Windows."""

import fcntl
import os
import struct
import sys
import types
from pathlib import Path

import pytest

from finetune.disk import lock_folder, refuse_lost_folder, try_lock


def lock_bytes(descriptor: int, mode: int, num_bytes: int) -> None:
    """Locks bytes from the current position on, as `msvcrt.locking` does, with real locks of this system."""
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_CUR, 0, num_bytes, 0)
    try:
        fcntl.fcntl(descriptor, mode, request)
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows":
        if sys.platform != "linux":
            pytest.skip("needs Linux' locks of open files")
        msvcrt = types.ModuleType("msvcrt")
        vars(msvcrt).update(LK_NBLCK=fcntl.F_OFD_SETLK, locking=lock_bytes)
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    return request.param


@pytest.mark.parametrize(
    ("first_is_shared", "second_is_shared", "is_free"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_only_shared_locks_are_held_side_by_side(
    system: str, first_is_shared: bool, second_is_shared: bool, is_free: bool, tmp_path: Path
) -> None:
    with (tmp_path / "lock").open("a+") as first, (tmp_path / "lock").open("a+") as second:
        first.write("process 1")
        first.flush()
        assert try_lock(first.fileno(), belongs_to="open file", is_shared=first_is_shared)
        assert try_lock(second.fileno(), belongs_to="open file", is_shared=second_is_shared) is is_free
        second.seek(0)
        assert second.read() == "process 1"
        first.close()
        assert try_lock(second.fileno(), belongs_to="open file", is_shared=second_is_shared)


def test_a_folder_that_another_took_the_place_of_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with lock_folder(folder) as lock:
        refuse_lost_folder(lock, folder)
        folder.rename(tmp_path / "moved")
        for _ in range(2):
            with pytest.raises(ValueError, match="deleted, moved or replaced"):
                refuse_lost_folder(lock, folder)
            folder.mkdir(exist_ok=True)
            (folder / ".lock").touch()
