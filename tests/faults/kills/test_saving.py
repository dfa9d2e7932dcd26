"""kill -9 during saves. `python -m tests.faults.kills.sweep` does it at every system call."""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import STEPS
from tests.faults.kills.injection import WhileSaving, die
from tests.support.runs import Options, assert_same_end, completed, start

POINTS = (range(1, 15), range(1, 15), range(1, 15), range(16, 27), range(16, 27), range(16, 27), range(29, 44))
"""Where a start of the run is killed, by events: while it writes its first checkpoint, while it removes the one before,
while it writes its second."""


@pytest.mark.slow
def test_a_run_killed_again_and_again_inside_saves_ends_the_same(
    small_run: Options, straight: Path, tmp_path: Path
) -> None:
    options = small_run | {"output.folder": tmp_path / "out", "checkpoint.every": 1, "checkpoint.keep": 1}
    draw = random.Random(7)
    points = [draw.choice(events) for events in draw.sample(POINTS, len(POINTS))]
    for point in points:
        ended = start("lora", options, tmp_path / "log", prepare=WhileSaving(point, die)).wait()
        assert ended.exit_code == -signal.SIGKILL, f"event {point} of {points}: {ended.output}"
    completed("lora", options, tmp_path / "log")
    assert_same_end(tmp_path / "out", straight)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step_{STEPS:06d}"]
