import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from finetune.processes import run_log
from finetune.processes.run_log import PrintedLines, log_lines, open_run_log
from finetune.processes.streams import LastingFile


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run_log, "_descriptor", None)
    monkeypatch.setattr(run_log, "_early", [])
    yield
    if run_log._descriptor is not None:
        os.close(run_log._descriptor)


def test_what_is_printed_before_the_folder_may_be_written_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["recipes/lora.py", "--data.folder", "my images"])
    log_lines(["goal style"])
    open_run_log(tmp_path / "run.log")
    log_lines(["step 1"])
    open_run_log(tmp_path / "run.log")
    first, goal, step, second = (tmp_path / "run.log").read_text().splitlines()
    assert first.startswith("=== 20") and first.endswith("UTC recipes/lora.py --data.folder 'my images'")
    assert (goal, step) == ("goal style", "step 1") and second.startswith("=== 20")


def test_each_stage_has_its_own_log(tmp_path: Path) -> None:
    for name in ("autoencoder", "denoiser"):
        open_run_log(tmp_path / name)
        log_lines([f"about the {name}"])
    assert (tmp_path / "autoencoder").read_text().endswith("about the autoencoder\n")
    assert "autoencoder" not in (tmp_path / "denoiser").read_text().partition("\n")[2]


def test_a_bar_on_a_terminal_leaves_its_last_state_and_the_texts_between(tmp_path: Path) -> None:
    lines = PrintedLines()
    with (tmp_path / "terminal").open("w") as file:
        console = Console(file=file, force_terminal=True, width=60)
        with Progress(console=console) as bar:
            task = bar.add_task("encoding", total=3)
            for number in range(3):
                bar.advance(task)
                bar.refresh()
                console.print(f"[bold]image {number}[/]")
    chunks = (tmp_path / "terminal").read_bytes().splitlines(keepends=True)
    shown = [line for chunk in chunks for line in lines.add(chunk)]
    assert [line for line in shown if line.startswith("image")] == ["image 0", "image 1", "image 2"]
    (last,) = [line for line in shown if line.startswith("encoding")]
    assert "100%" in last and "\x1b" not in "".join(shown)


def test_a_line_that_is_redrawn_without_end_takes_no_more_memory() -> None:
    lines = PrintedLines()
    for number in range(1000):
        assert lines.add(b"\r%d" % number) == []
    assert len(lines._rest) < 10
    assert lines.add(b"\n") == ["999"]


def test_a_stream_logs_once_what_it_takes_in_pieces(tmp_path: Path) -> None:
    class Slow(io.RawIOBase):  # takes three bytes at a time
        def write(self, data: bytes, /) -> int:
            return min(3, len(data))

    stream = LastingFile(Slow(), "output")
    data = b"one two\nthree\n"
    while data:
        data = data[stream.write(data) :]
    assert run_log._early == ["one two", "three"]


def test_a_full_disk_costs_the_log_alone() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    open_run_log(Path("/dev/full"))
    log_lines(["lost"])
