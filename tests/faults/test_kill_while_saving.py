"""kill -9 at file-system calls inside saves: the same command goes on, and the end is the same bit for bit."""

import random
import signal
from pathlib import Path

from tests.faults.conftest import assert_same_end
from tests.faults.injection import WhileSaving, die
from tests.runs import Options, run, start

EVENTS_OF_TWO_SAVES = 60
"""About as many as one start of the run makes from its first save to the end of its second, rotation included."""
NUM_KILLS = 8


def test_a_run_killed_again_and_again_inside_saves_ends_the_same(
    small_run: Options, straight: Path, tmp_path: Path
) -> None:
    options = small_run | {"output.folder": tmp_path / "out", "checkpoint.every": 1, "checkpoint.keep": 1}
    draw = random.Random(7)
    width = EVENTS_OF_TWO_SAVES // NUM_KILLS
    points = [number * width + draw.randrange(1, width + 1) for number in range(NUM_KILLS)]
    draw.shuffle(points)
    killed = 0
    for point in points:
        ended = start("lora", options, tmp_path / "log", prepare=WhileSaving(point, die)).wait()
        assert ended.exit_code in (-signal.SIGKILL, 0), f"event {point}: {ended.output}"
        killed += ended.exit_code != 0
        if ended.exit_code == 0:
            break
    ended = run("lora", options, tmp_path / "log")
    assert ended.exit_code == 0, f"after {points}: {ended.output}"
    assert killed >= 4
    assert_same_end(tmp_path / "out", straight)
    leftovers = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert leftovers == [f"step_{small_run['train.steps']:06d}"]
