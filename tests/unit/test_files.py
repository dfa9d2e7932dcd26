import fcntl
import os
import stat
import struct
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.batches.store import ShardStore, open_shard
from finetune.files import (
    UMASK,
    aside,
    lock_folder,
    new_folder,
    put_in_place,
    refuse_lost_folder,
    try_lock,
    write_atomically,
)
from finetune.replaced_folder import replace_folder
from finetune.run.checkpoint import STATE_KEYS, Checkpoint, newest_checkpoint
from finetune.run.saving.write_checkpoint import save_checkpoint
from tests.support.other_user import NOBODY, as_another_user


def lock_bytes(descriptor: int, mode: int, num_bytes: int) -> None:
    """Lock bytes like `msvcrt.locking`, with this system's real locks."""
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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def entries(*keys: str) -> dict[str, dict[str, torch.Tensor]]:
    return {key: {"latents": torch.full((2, 2), float(len(key)))} for key in keys}


def saved_checkpoint(folder: Path, step: int) -> Path:
    state = dict.fromkeys(STATE_KEYS, 0) | {"step": step}
    return save_checkpoint(folder, Checkpoint({"w": torch.ones(2)}, None, {}, state), "", keep=3)


def test_two_containers_with_the_same_process_id_write_the_same_file_side_by_side(tmp_path: Path) -> None:
    names = {aside(tmp_path / "record.json") for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and name.name.startswith(".tmp-record.json-") for name in names)
    assert all(str(os.getpid()) in name.name and "/" not in name.name for name in names)
    write_atomically(tmp_path / "record.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_files_have_the_mode_of_the_umask_and_others_keep_theirs(tmp_path: Path) -> None:
    """safetensors writes files that only their owner can read."""
    ours = tmp_path / "ours"
    own = tmp_path / "export" / "mine.sh"
    own.parent.mkdir()
    own.write_text("a user's")
    own.chmod(0o750)
    (tmp_path / "aside" / "unet").mkdir(parents=True)
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "aside" / "unet" / "w.safetensors")
    replace_folder(tmp_path / "aside", tmp_path / "export")
    with new_folder(ours) as folder:
        safetensors.torch.save_file({"w": torch.ones(1)}, folder / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "aside")
    put_in_place(tmp_path / "aside", ours / "x.safetensors")
    write_atomically(ours / "text", "text")
    ShardStore(ours / "cache").write(entries("a"))
    saved_checkpoint(ours, 1)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != tmp_path / "export" / "mine.sh"]
    assert len(files) >= 9
    assert {path.name: mode(path) for path in files} == {path.name: 0o666 & ~UMASK for path in files}
    assert mode(tmp_path / "export" / "mine.sh") == 0o750


def test_shards_of_another_user_are_used_and_never_replaced(open_folder: Path) -> None:
    with as_another_user():
        first = ShardStore(open_folder / "cache")
        path = first.write(entries("a", "b"))
    (open_folder / "cache").chmod(0o777)
    path.chmod(0o600)
    before = path.stat()
    os.chown(path, 0, 0)
    with as_another_user():
        store = ShardStore(open_folder / "cache")
        assert store.missing(["a", "b"]) == ["a", "b"] and "permission denied" in store.warnings[0]
        store.remove_torn()
        other = store.write(entries("a", "b"))
        store.refresh()
        assert other != path and other.stat().st_uid == NOBODY
        assert store.read("a")["latents"].tolist() == [[1.0, 1.0]] * 2
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(b"torn")
    path.chmod(0o644)
    with as_another_user():
        ShardStore(open_folder / "cache").remove_torn()
    assert path.read_bytes() == b"torn"


def test_a_cache_that_may_be_read_but_not_written_is_used_and_told_where_it_does_not_suffice(open_folder: Path) -> None:
    path = ShardStore(open_folder / "cache").write(entries("a"))
    with as_another_user():
        store = ShardStore(open_folder / "cache")
        assert store.read("a") and not store.warnings
        with pytest.raises(OSError, match=r"Permission denied.*Put the cache elsewhere with --cache\.folder"):
            store.write(entries("b"))
    path.chmod(0o600)
    open_shard.cache_clear()
    with as_another_user(), pytest.raises(PermissionError, match="may not be read by this user"):
        store.read("a")


@pytest.mark.parametrize("closed", ["trained.safetensors", "manifest.json", "."])
def test_a_checkpoint_that_may_not_be_read_is_neither_damaged_nor_passed_over(closed: str, open_folder: Path) -> None:
    saved_checkpoint(open_folder, 1)
    (saved_checkpoint(open_folder, 2) / closed).chmod(0)
    said: list[str] = []
    with as_another_user(), pytest.raises(PermissionError, match="may not be read by this user"):
        newest_checkpoint(open_folder, said.append)
    assert said == []
