import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.run_folder.checkpoints import complete_steps
from tests.faults.kills.injection import WhenOpened, ask_to_stop, every_interrupt_counts, fork_workers, lead_a_group
from tests.support.launch import LAUNCH, ROOT
from tests.support.runs import Options, Running, assert_same_end, completed, flags, losses, metrics, start


def hang_ups_count() -> None:
    """Heed SIGHUP even if the tests run under nohup. Children inherit that it is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def at_step(number: int, out: Path, running: Running) -> None:
    running.wait_until(lambda: len(metrics(out)) >= number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_loses_no_step(number: signal.Signals, small_run: Options, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "checkpoint.every": 100}
    running = start("lora", options, tmp_path / "log", prepare=hang_ups_count)
    at_step(2, out, running)
    running.signal(number)
    running.signal(number)  # a launcher passes on what the terminal has sent already
    ended = running.wait()
    assert ended.exit_code == 75, ended.output
    assert "Traceback" not in ended.output and number.name in ended.output
    (step, newest), *others = complete_steps(out / "checkpoints")
    assert others == []
    # The line of the step itself waits in the checkpoint, since a validation may still belong to it.
    assert step == metrics(out)[-1]["step"] + 1
    assert json.loads((newest / "state.json").read_text())["pending"]["step"] == step
    ended = completed("lora", options | {"checkpoint.every": 2}, tmp_path / "log")
    assert f"at step {step}" in ended.output
    assert_same_end(out, straight)


def test_a_later_interrupt_ends_the_run_at_once(small_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "train.accumulation": 20}
    running = start("lora", options, tmp_path / "log", prepare=every_interrupt_counts)
    at_step(1, out, running)
    running.signal(signal.SIGINT)
    running.wait_until(lambda: "SIGINT" in (tmp_path / "log").read_text())
    running.signal(signal.SIGINT)  # within the same step, which is a long one
    ended = running.wait(20)
    assert ended.exit_code == -signal.SIGINT, ended.output
    assert "Traceback" not in ended.output
    assert complete_steps(out / "checkpoints") == []


@pytest.mark.parametrize(
    ("sign", "number"),
    [
        ("out/.lock", signal.SIGINT),  # before torch is there
        ("out/data_card.json", signal.SIGUSR1),
        ("cache/latents/*.safetensors", signal.SIGTERM),
        ("cache/latents/*.safetensors", signal.SIGINT),
    ],
)
def test_a_signal_before_training_ends_without_a_traceback(
    sign: str, number: signal.Signals, small_run: Options, straight: Path, tmp_path: Path
) -> None:
    """`sign` is the file that shows how far the start has come."""
    options = small_run | {"output.folder": tmp_path / "out", "cache.folder": tmp_path / "cache", "cache.shard_size": 2}
    running = start("lora", options, tmp_path / "log")
    running.wait_until(lambda: any(tmp_path.glob(sign)))
    running.signal(number)
    ended = running.wait(20)
    assert ended.exit_code == 75, ended.output
    assert "Traceback" not in ended.output
    told = [f"{number.name}: training had not begun"]
    if sign == "out/data_card.json":  # the first steps follow at once
        told += ["Stopped before", "Stopped after"]
    assert any(text in ended.output for text in told)


@pytest.mark.parametrize(("prepare", "ending"), [(lead_a_group, 75), (fork_workers, -signal.SIGKILL)])
def test_workers_of_the_data_loader_outlive_a_signal_to_the_whole_job_and_no_kill(
    prepare: Callable[[], None], ending: int, small_run: Options, straight: Path, tmp_path: Path
) -> None:
    """torchrun, SLURM and systemd signal every process of a job. A killed one's folder is free."""
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "data.num_workers": 2}
    running = start("lora", options, tmp_path / "log", prepare=prepare)
    at_step(2, out, running)
    assert running.process.pid is not None
    if ending == 75:
        os.killpg(running.process.pid, signal.SIGTERM)
    else:
        running.signal(signal.SIGKILL)
    ended = running.wait(30)
    assert ended.exit_code == ending, ended.output
    if ending == 75:  # workers may print that they lost a killed process
        assert "Traceback" not in ended.output
    completed("lora", options | {"data.num_workers": 0}, tmp_path / "log")
    assert_same_end(out, straight)


@pytest.mark.slow
def test_the_end_of_accelerate_launch_leaves_no_orphan_and_a_run_that_goes_on(
    small_run: Options, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "train.steps": 10_000, "checkpoint.every": 10_000}
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, *LAUNCH, "-m", "recipes.lora", *flags(options)]
        launcher = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while len(metrics(out)) < 2:
        assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    child = int((out / ".lock").read_text().removeprefix("process "))
    launcher.terminate()
    launcher.wait(30)
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split(") ")[1][:1]:
        assert time.monotonic() < deadline, "the launcher's child still runs"
        time.sleep(0.05)
    (step, _), *_ = complete_steps(out / "checkpoints")
    assert step == metrics(out)[-1]["step"] + 1
    before = losses(out)
    completed("lora", options | {"train.steps": step + 1}, tmp_path / "log2")
    assert losses(out)[: step - 1] == before


@pytest.mark.parametrize("stopped_at", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_signal_between_two_previews_is_heard_after_one_image_at_most(
    stopped_at: int, small_run: Options, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "checkpoint.every": 100, "preview.every": 2, "preview.num_seeds": 4}
    options |= {"preview.prompts": ("a circle", "a square"), "preview.num_inference_steps": 1}
    first, of_step = f".tmp-step_00000{stopped_at}_prompt00_seed0.png", f"step_00000{stopped_at}_prompt*"
    ended = start("lora", options, tmp_path / "log", prepare=WhenOpened(first, ask_to_stop)).wait()
    assert ended.exit_code == 75, ended.output
    assert len(list((out / "previews").glob(of_step))) == 1
    steps = [step for step, _ in complete_steps(out / "checkpoints")]
    assert steps == ([stopped_at] if stopped_at else [])
    completed("lora", options, tmp_path / "log")
    assert_same_end(out, straight)
    assert len(list((out / "previews").glob(of_step))) == 8
