import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kills.injection import FileSizeLimit, FillDisk, WhenOpened, WhileSaving
from tests.support.runs import Options, assert_same_end, completed, refused


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # tensors read from it may still be mapped


def fill(disk: Path, *, leave: int) -> None:
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - leave))


@pytest.mark.parametrize("event", [4, 9, 16])
def test_a_checkpoint_that_finds_the_disk_full_loses_nothing(
    event: int, interrupted: Options, straight: Path, small_disk: Path, tmp_path: Path
) -> None:
    out = small_disk / "out"
    shutil.move(str(tmp_path / "out"), out)
    options = interrupted | {"output.folder": out}
    prepare = WhileSaving(event, FillDisk(small_disk))
    output = refused("lora", options, tmp_path / "log", "ENOSPC", str(out), "it needs about", prepare=prepare)
    if event < 16:
        assert "step_000006" in output
        assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_000002", "step_000004"]
    (small_disk / "ballast").unlink()
    completed("lora", options, tmp_path / "log")
    assert_same_end(out, straight)


@pytest.mark.parametrize("num_bytes", [4_000, 20_000])
def test_a_checkpoint_larger_than_a_file_may_be_loses_nothing(
    num_bytes: int, interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    words = ("EFBIG", "step_000006", "bytes")
    refused("lora", interrupted, tmp_path / "log", *words, prepare=FileSizeLimit(num_bytes))
    completed("lora", interrupted, tmp_path / "log")
    assert_same_end(tmp_path / "out", straight)


@pytest.mark.parametrize(
    ("free", "options", "words"),
    [
        (0, {}, ("output.folder", "No space left")),
        (8_192, {}, ("output.folder", "No space left")),  # run.log takes the first page
        (12_288, {}, ("could not be written", "ENOSPC")),
        (60_000, {"cache.folder": "cache"}, ("cache:", "No space left", "cache.folder")),
        (60_000, {"preview.prompts": ("a red circle",), "preview.num_inference_steps": 1}, ("previews", "ENOSPC")),
    ],
)
def test_a_full_disk_is_named_wherever_the_run_meets_it(
    free: int, options: Options, words: tuple[str, ...], small_run: Options, small_disk: Path, tmp_path: Path
) -> None:
    if "cache.folder" in options:
        options = {"cache.folder": small_disk / "cache"}
    fill(small_disk, leave=free)
    refused("lora", small_run | {"output.folder": small_disk / "out"} | options, tmp_path / "log", *words)


def test_metrics_that_find_the_disk_full_say_so(
    small_run: Options, straight: Path, small_disk: Path, tmp_path: Path
) -> None:
    out = small_disk / "out"
    options = small_run | {"output.folder": out}
    out.mkdir()
    shutil.copy(straight / "tracking.json", out)
    prepare = WhenOpened("metrics.jsonl", FillDisk(small_disk))
    words = ("metrics.jsonl", "ENOSPC", "it needs about")
    assert "Exception ignored" not in refused("lora", options, tmp_path / "log", *words, prepare=prepare)
    (small_disk / "ballast").unlink()
    completed("lora", options, tmp_path / "log")
    assert_same_end(out, straight)


def test_an_export_that_finds_the_disk_full_is_made_by_the_next_start(
    finished: Options, straight: Path, small_disk: Path, tmp_path: Path
) -> None:
    out = small_disk / "out"
    shutil.move(str(tmp_path / "out"), out)
    shutil.rmtree(out / "export")
    (out / "run.json").unlink()
    fill(small_disk, leave=12_000)
    options = finished | {"output.folder": out}
    refused("lora", options, tmp_path / "log", "export", "ENOSPC", "it needs about")
    (small_disk / "ballast").unlink()
    completed("lora", options, tmp_path / "log")
    assert len(list((out / "export").glob("*.safetensors"))) == 2
    assert_same_end(out, straight)
