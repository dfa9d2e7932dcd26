"""Two launchers as two machines, on one machine (c10d over loopback)."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
import torch

from finetune.run_folder.checkpoints import complete_steps
from tests.support.launch import ROOT
from tests.support.runs import Options, completed, final_state, flags, metrics

WORDS = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/multi_node.yaml"]
WORDS += ["--rdzv_backend", "c10d", "--main_process_ip", "127.0.0.1", "--mixed_precision", "no"]


class Machines:
    """The launchers of two machines with one process each."""

    def __init__(self, options: Options, folder: Path, *launcher_words: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder.mkdir()
        self.logs = [folder / f"log{number}" for number in (0, 1)]
        self.launchers = []
        for number, log in enumerate(self.logs):
            if number:  # only the first may open the port: Accelerate refuses to start it where another has
                self.wait_until(lambda: port in [each.laddr.port for each in psutil.net_connections("tcp")])
            place = ["--main_process_port", str(port), "--machine_rank", str(number), "-m", "recipes.lora"]
            with log.open("wb") as file:
                words = [sys.executable, *WORDS, *launcher_words, *place, *flags(options)]
                environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
                self.launchers.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=file))

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = monotonic() + 180
        while not happened():
            assert monotonic() < deadline and all(each.poll() is None for each in self.launchers), self.output()
            sleep(0.02)

    def trained_by(self, number: int) -> psutil.Process:
        """Return the process that trains on a machine."""
        (process,) = psutil.Process(self.launchers[number].pid).children()
        return process

    def end(self) -> list[int]:
        return [launcher.wait(180) for launcher in self.launchers]

    def output(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


@pytest.mark.slow
def test_two_machines_save_on_a_signal_restart_after_a_kill_and_train_as_one_process(
    small_run: Options, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "train.steps": 30, "checkpoint.every": 4, "optim.lr": 1e-3}
    machines = Machines(options, tmp_path / "first")
    machines.wait_until(lambda: len(metrics(out)) >= 2)
    processes = [machines.trained_by(number) for number in (0, 1)]
    machines.launchers[1].send_signal(signal.SIGTERM)
    assert machines.end() == [1, 1], machines.output()  # the launchers' own; those of the processes are 75
    assert not any(process.is_running() for process in processes)
    stopped_at = complete_steps(out / "checkpoints")[0][0]
    assert stopped_at == metrics(out)[-1]["step"] + 1 < 30

    machines = Machines(options, tmp_path / "second", "--max_restarts", "1")
    machines.wait_until(lambda: len(metrics(out)) >= stopped_at + 5)
    machines.trained_by(1).kill()
    assert machines.end() == [0, 0], machines.output()
    output = machines.output()
    assert f"at step {stopped_at} of 30" in output and output.count("Resuming from") > 2  # both machines again
    assert "error in process" in output and "Connection refused" not in output
    assert [row["step"] for row in metrics(out)] == list(range(1, 31))

    one = options | {"output.folder": tmp_path / "one", "train.batch_size": 2}
    completed("lora", one, tmp_path / "log")
    expected = final_state(tmp_path / "one")
    for name, value in final_state(out).items():
        if name.startswith("trained."):
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-4)
