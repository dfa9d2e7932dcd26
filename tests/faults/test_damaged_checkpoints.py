import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune.files import file_sha256
from finetune.run.checkpoint import load_checkpoint, newest_checkpoint
from tests.faults.conftest import contents
from tests.support.damage import cut, flip_a_bit
from tests.support.runs import Options, assert_same_end, completed, refused

FILES = ("trained.safetensors", "optimizer.pt", "state.json", "config.yaml", "manifest.json")


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip_a_bit": flip_a_bit,
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "fill_with_zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "delete": Path.unlink,
    "replace_by_folder": replace_by_folder,
}


def become(content: bytes | None) -> Callable[[Path], None]:
    def change(newest: Path) -> None:
        shutil.rmtree(newest)
        newest.mkdir() if content is None else newest.write_bytes(content)

    return change


FOLDER_DAMAGES: dict[str, Callable[[Path], object]] = {
    "swap_manifest": lambda newest: shutil.copy(newest.parent / "step_000004" / "manifest.json", newest),
    "empty_manifest": lambda newest: (newest / "manifest.json").write_text("{}"),
    "odd_manifest": lambda newest: (newest / "manifest.json").write_text("[" * 100_000),
    "empty_folder": become(None),
    "become_a_file": become(b""),
}


@pytest.fixture
def checkpoints(straight: Path, tmp_path: Path) -> Path:
    return shutil.copytree(straight / "checkpoints", tmp_path / "checkpoints")


def assert_falls_back(checkpoints: Path, name: str) -> None:
    warnings: list[str] = []
    found = newest_checkpoint(checkpoints, warnings.append)
    assert found is not None and (found[0].name, found[1]["step"]) == ("step_000004", 4)
    (warning,) = warnings
    assert name in warning and "falling back" in warning


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damage_to_any_file_is_noticed_and_named(file: str, damage: str, checkpoints: Path) -> None:
    DAMAGES[damage](checkpoints / "step_000006" / file)
    is_unnamed = (damage, file) == ("flip_a_bit", "manifest.json")
    assert_falls_back(checkpoints, "" if is_unnamed else f"step_000006/{file}")


@pytest.mark.parametrize("damage", FOLDER_DAMAGES)
def test_a_folder_that_is_not_a_checkpoint_is_noticed_and_named(damage: str, checkpoints: Path) -> None:
    FOLDER_DAMAGES[damage](checkpoints / "step_000006")
    assert_falls_back(checkpoints, "step_000006")


def seal(checkpoint: Path) -> None:
    """Make the manifest agree with the changed files, as a forger would."""
    files = [path for path in checkpoint.iterdir() if path.name != "manifest.json"]
    manifest = {path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


class Canary:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("written", ["torch", "pickle"])
def test_a_pickle_in_a_checkpoint_is_not_run_whatever_its_manifest_says(
    written: str, checkpoints: Path, tmp_path: Path
) -> None:
    newest, trace = checkpoints / "step_000006", tmp_path / "canary"
    if written == "torch":
        torch.save(Canary(trace), newest / "optimizer.pt")
    else:
        (newest / "optimizer.pt").write_bytes(pickle.dumps(Canary(trace)))
    seal(newest)
    assert_falls_back(checkpoints, "step_000006/optimizer.pt")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("trained.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
        ("optimizer.pt", b"no zip file"),
        ("state.json", b"[]"),
        ("state.json", b'{"step": "six"}'),
        ("state.json", b"[" * 100_000),
    ],
)
def test_a_file_that_its_manifest_vouches_for_but_that_does_not_read_is_named(
    file: str, content: bytes, checkpoints: Path
) -> None:
    newest = checkpoints / "step_000006"
    (newest / file).write_bytes(content)
    seal(newest)
    assert_falls_back(checkpoints, f"step_000006/{file}")


def test_averages_that_the_manifest_does_not_list_are_not_read(checkpoints: Path) -> None:
    newest = checkpoints / "step_000006"
    shutil.copy(newest / "trained.safetensors", newest / "ema.safetensors")
    assert load_checkpoint(newest).ema is None


def test_a_run_falls_back_says_so_and_ends_the_same(interrupted: Options, straight: Path, tmp_path: Path) -> None:
    flip_a_bit(tmp_path / "out" / "checkpoints" / "step_000004" / "trained.safetensors")
    ended = completed("lora", interrupted, tmp_path / "log")
    assert "step_000004/trained.safetensors" in ended.output
    assert "Resuming from" in ended.output and "at step 2" in ended.output
    assert_same_end(tmp_path / "out", straight)


def test_where_all_are_damaged_the_run_is_refused_and_nothing_is_deleted(interrupted: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for checkpoint in (out / "checkpoints").iterdir():
        cut(checkpoint / "optimizer.pt")
    before = contents(out)
    refused("lora", interrupted, tmp_path / "log", "no intact checkpoint")
    assert contents(out).items() >= before.items()


def test_rotation_never_counts_a_damaged_checkpoint_that_was_passed_over(interrupted: Options, tmp_path: Path) -> None:
    """With keep=1 a newer, damaged one must not displace the fresh one."""
    out = tmp_path / "out"
    cut(out / "checkpoints" / "step_000004" / "optimizer.pt")
    options = interrupted | {"checkpoint.keep": 1, "checkpoint.every": 3}
    completed("lora", options | {"train.steps": 3}, tmp_path / "log")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_000003"]
    assert load_checkpoint(out / "checkpoints" / "step_000003").state["step"] == 3
