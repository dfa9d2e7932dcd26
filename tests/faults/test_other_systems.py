"""Preparation and training on a Linux that pretends to be another system."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from finetune.run_folder.checkpoints import complete_steps
from tests.support.launch import command
from tests.support.other_systems import make_like_macos, make_like_windows
from tests.support.prepared import rows_of
from tests.support.runs import PREVIEWS, Options, Running, differing, start
from tests.tiny.sd import save_pictures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pretends on Linux")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252:strict"}
"""Files are ASCII unless a program says otherwise, and the console has few characters."""
CAPTION = "ein grüner Kreis, 円"


def ended_well(running: Running) -> str:
    ended = running.wait()
    assert ended.exit_code == 0, ended.output
    return ended.output


def refusals(folder: Path) -> list[str]:
    """Try what Windows refuses, and list what was not refused."""
    kept, other = folder / "kept", folder / "other"
    other.write_text("other")
    tries = {
        "replaced": lambda: other.replace(kept),
        "renamed with its folder": lambda: folder.rename(folder.with_name("moved")),
        "deleted": kept.unlink,
        "linked": lambda: (folder / "link").symlink_to(other),
        "a colon": lambda: (folder / "a:b").write_text(""),
        "a folder opened": lambda: os.close(os.open(folder, os.O_RDONLY)),
    }
    done = []
    with kept.open("w"):
        for name, attempt in tries.items():
            try:
                attempt()
            except OSError:
                continue
            done.append(name)
    return done


class PretendAndTry:
    """Pretends, and writes to a file what was not refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        make_like_windows()
        done = refusals(self.folder)
        from finetune.processes.signals import os as seen

        done += ["sched_getaffinity"] * hasattr(seen, "sched_getaffinity")
        print("not refused:", *done, flush=True)
        os._exit(0)


def test_it_refuses_what_windows_refuses(tiny_run: Options, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    running = start("lora", tiny_run, tmp_path / "log", prepare=PretendAndTry(tmp_path / "inner"))
    assert ended_well(running).strip().endswith("not refused:")


@pytest.mark.parametrize("system", ["windows", "macos"])
def test_images_are_prepared_again_when_one_is_added(system: str, tmp_path: Path) -> None:
    """Captions are in text files, which the default encoding does not read."""
    source = save_pictures(tmp_path / "source", count=4, size=64)
    (source / "metadata.jsonl").unlink()
    (source / "0003.png").rename(tmp_path / "later.png")
    words = ["-m", "tests.support.other_systems", system, "--source", str(source)]
    words += ["--output", str(tmp_path / "prepared"), "--workers", "2", "--dedup.near", "report"]
    for num in (3, 4):
        for number in range(num):
            (source / f"{number:04d}.txt").write_text(f"{CAPTION} {number}", encoding="utf-8")
        if num == 4:
            (tmp_path / "later.png").rename(source / "0003.png")
        ended = command(words, **ASCII)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "only Linux limits a process's memory" in ended.stderr
        texts = sorted(row["text"] for row in rows_of(tmp_path / "prepared"))
        assert texts == [f"{CAPTION} {number}" for number in range(num)]


@pytest.mark.parametrize("pretend", [make_like_windows, make_like_macos])
def test_a_run_is_stopped_continued_and_exported_again(
    pretend: Callable[[], None], tiny_run: Options, tmp_path: Path
) -> None:
    """A truncated export is written again from the checkpoint."""
    out, log = tmp_path / "out", tmp_path / "log"
    options = tiny_run | PREVIEWS | {"preview.prompts": (CAPTION,), "data.num_workers": 1, "checkpoint.keep": 2}
    options |= {"checkpoint.every": 2, "tracking.names": ("tensorboard",), "output.folder": out}
    running = start("lora", options | {"train.steps": 1000}, log, prepare=pretend)
    running.wait_until(lambda: bool(complete_steps(out / "checkpoints")))
    running.signal(signal.SIGTERM)
    assert running.wait().exit_code == 75
    steps = complete_steps(out / "checkpoints")[0][0] + 2
    assert "Resuming from" in ended_well(start("lora", options | {"train.steps": steps}, log, prepare=pretend))
    (exported,) = (out / "export").glob("pytorch_lora_weights.safetensors")
    whole = exported.read_bytes()
    exported.write_bytes(whole[:-9])
    ended_well(start("lora", options | {"train.steps": steps}, log, prepare=pretend))
    assert differing(safetensors.torch.load_file(exported), safetensors.torch.load(whole)) == []
