import os
from pathlib import Path

from tests.support.runs import Options, assert_same_end, start


def lose_both() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    os.dup2(writer, 2)


def test_a_run_that_nobody_reads_ends_as_any_other(small_run: Options, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = start("lora", small_run | {"output.folder": out}, tmp_path / "log", prepare=lose_both).wait()
    assert ended.exit_code == 0
    assert_same_end(out, straight)
    assert "standard output could not be written (No space left on device)" in (out / "report.html").read_text()
