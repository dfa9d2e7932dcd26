import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune.run_folder import options
from finetune.run_folder.checkpoints import complete_steps
from tests.faults.kills.injection import WhenOpened
from tests.support.jobs import ends, start_job
from tests.support.runs import Options, Running, metrics, refused


def two(
    options: Options, folder: Path, *, second: Options | None = None, prepare: Sequence[Callable[[], None] | None] = ()
) -> list[Running]:
    """Start a LoRA run on two processes. The second may have other options."""
    return start_job("lora", options, folder, others=second, prepare=prepare)


@pytest.fixture
def job(small_run: Options, tmp_path: Path) -> Options:
    return small_run | {"output.folder": tmp_path / "out", "train.timeout_seconds": 3}


@pytest.mark.parametrize(
    ("number", "rank"),
    [
        (signal.SIGSTOP, 1),
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],  # 0 has the store
)
def test_a_frozen_or_killed_process_ends_the_job_with_a_sentence(
    number: signal.Signals, rank: int, job: Options, tmp_path: Path
) -> None:
    saves = number == signal.SIGSTOP
    running = two(job | {"train.steps": 100_000, "checkpoint.every": 2 if saves else 100_000}, tmp_path)
    running[0].wait_until(lambda: len(metrics(tmp_path / "out")) >= 3)
    running[rank].signal(number)
    ended = ends(running, 30)
    lost, left = ended[rank], ended[1 - rank]
    assert left.exit_code == 1, left.output
    assert lost.exit_code == -signal.SIGKILL  # a frozen process hears nothing else
    assert "Traceback" not in left.output
    assert f"error in process {1 - rank}: process {rank} of this job has " in left.output
    assert ("train.timeout_seconds" in left.output) is (number == signal.SIGSTOP)
    steps = [step for step, _ in complete_steps(tmp_path / "out" / "checkpoints")]
    assert bool(steps) is saves
    told = [f"Everything up to step {step} is saved" for step in steps] or ["No checkpoint was saved yet"]
    assert any(text in left.output for text in told), left.output


def test_another_seed_on_one_process_is_refused_by_all_before_the_first_step(job: Options, tmp_path: Path) -> None:
    for ended in ends(two(job, tmp_path, second={"seed": 7}), 60):
        assert ended.exit_code == 1, ended.output
        assert "process 1 was started with another setup than process 0: seed 7 instead of 0." in ended.output
    assert metrics(tmp_path / "out") == []


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def __call__(self) -> None:
        time.sleep(self.seconds)


@pytest.mark.slow
def test_a_process_that_works_alone_for_longer_than_the_timeout_is_waited_for(job: Options, tmp_path: Path) -> None:
    running = two(job | {"train.timeout_seconds": 2}, tmp_path, prepare=[WhenOpened("optimizer.pt", Sleep(3)), None])
    for ended in ends(running, 60):
        assert ended.exit_code == 0, ended.output


def test_a_signal_to_one_process_stops_all_after_a_save(job: Options, tmp_path: Path) -> None:
    running = two(job | {"train.steps": 100_000, "checkpoint.every": 100_000}, tmp_path)
    running[0].wait_until(lambda: len(metrics(tmp_path / "out")) >= 2)
    assert running[1].process.pid is not None
    os.kill(running[1].process.pid, signal.SIGINT)
    for ended in ends(running, 30):
        assert ended.exit_code == 75, ended.output
        assert "Traceback" not in ended.output
    assert complete_steps(tmp_path / "out" / "checkpoints")[0][0] == metrics(tmp_path / "out")[-1]["step"] + 1


@dataclass(frozen=True)
class ChangeFolder:
    """Start in another folder, as on another machine. Relative paths lead elsewhere there."""

    folder: Path

    def __call__(self) -> None:
        os.chdir(self.folder)
        options.SECONDS_TO_APPEAR = 0.5


def test_folders_of_each_machines_own_are_refused(job: Options, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    own: Options = {"output.folder": "out", "cache.folder": "cache"}
    running = two(job | own, tmp_path, prepare=[ChangeFolder(folder) for folder in folders])
    for ended in ends(running, 60):
        assert ended.exit_code == 1, ended.output
        for named in ("output.folder: out", "cache.folder: cache"):
            assert f"{named} is not the same folder for process 1 as for process 0" in ended.output
    assert [path for folder in folders for path in folder.rglob(".tmp-*")] == []


def test_a_request_of_the_launcher_that_would_be_dropped_is_refused(small_run: Options, tmp_path: Path) -> None:
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    options, words = small_run | {"output.folder": tmp_path / "out"}, ("fsdp_version: got 1", "--train.accumulation 4")
    refused("lora", options, tmp_path / "log", *words, environment=environment)
    assert not (tmp_path / "out").exists()
