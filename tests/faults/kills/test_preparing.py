import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.images import drawn, encoded, write
from tests.unit.datasets_prep.test_pipeline import contents

ROOT = Path(__file__).parents[3]
NUM_KILLS = 20  # half of them for each form


def command(output: Path, *options: str) -> list[str]:
    arguments = ["--source", "raw", "--output", str(output), "--workers", "2", "--trigger", "ink style", *options]
    return [sys.executable, "-m", "datasets_prep", *arguments]


def start(folder: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(output, *options), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--write.format", "parquet", "--split.share", "0.2")], ids=["folder", "shards"]
)
def test_a_killed_preparation_is_completed_by_the_same_command(tmp_path: Path, options: tuple[str, ...]) -> None:
    files: dict[str, bytes | str] = {f"{seed:02d}_thing.png": encoded(drawn(seed, (200, 150))) for seed in range(24)}
    files |= {"copy.png": files["03_thing.png"], "copy.txt": "a copy", "torn.png": files["04_thing.png"][:900]}
    write(tmp_path / "raw", files)
    begun = time.monotonic()
    whole = start(tmp_path, tmp_path / "whole", *options)
    _, said = whole.communicate(timeout=120)
    seconds = time.monotonic() - begun
    assert whole.returncode == 0, said
    expected = contents(tmp_path / "whole")
    before = contents(tmp_path / "raw")

    rng = random.Random(len(options))
    num_kills, num_ends = 0, 0
    while num_kills < NUM_KILLS / 2:
        output = tmp_path / f"killed_{num_ends}"
        running = start(tmp_path, output, *options)
        try:
            running.wait(rng.uniform(0.2, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            num_kills += 1
        _, said = running.communicate(timeout=120)
        if running.returncode != -signal.SIGKILL:
            assert running.returncode == 0, said
            assert contents(output) == expected
            num_ends += 1
    last = start(tmp_path, output, *options)
    assert last.wait(120) == 0
    assert contents(output) == expected
    assert contents(tmp_path / "raw") == before
    assert not [name for name in os.listdir(output) if name.endswith(".unfinished")]
