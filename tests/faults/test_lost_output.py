"""Standard output and error that are closed or full cost what they show, never the run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import assert_same_end
from tests.runs import Options, start


def closed_pipe() -> None:
    """As `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def full_disk() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


@pytest.mark.parametrize("lose", [closed_pipe, full_disk])
def test_a_run_that_nobody_reads_ends_as_any_other(
    lose: Callable[[], None], small_run: Options, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = start("lora", small_run | {"output.folder": out}, tmp_path / "log", prepare=lose).wait()
    assert ended.exit_code == 0
    assert_same_end(out, straight)
    assert "standard output could not be written" in (out / "report.html").read_text()
