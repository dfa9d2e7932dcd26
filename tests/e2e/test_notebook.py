import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.notebook import flags, train
from tests.support.launch import ROOT, command, succeeded
from tests.support.runs import Options, metrics

NOTEBOOK = ROOT / "examples" / "lora.ipynb"


def sections(options: Options, **more: Any) -> dict[str, Any]:
    """Return options as the sections of a config."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        section, _, name = key.rpartition(".")
        (found.setdefault(section, {}) if section else found)[name] = value
    return found | more


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in signal.valid_signals()]


def test_options_are_the_arguments_of_a_recipe() -> None:
    options = {"data": {"folders": [{"folder": "a", "repeats": 2}, "b"]}, "seed": 1, "mask": {"folder": None}}
    words = ["--data.folders", '{"folder": "a", "repeats": 2}', "b", "--seed=1", "--mask.folder=None"]
    assert flags("demo", options) == ["--config", "demo", *words]
    assert flags({"seed": 2, "mask": {"kind": "file"}}, {"seed": 1}) == ["--seed=1", "--mask.kind=file"]


def test_mistakes_are_exceptions_of_the_notebook(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of recipes"):
        train({}, recipe="lara")
    with pytest.raises(ValueError, match="lr: got fast"):
        train({"model": {"source": "m"}, "data": {"folder": "d"}, "output": {"folder": tmp_path}}, optim={"lr": "fast"})
    with pytest.raises(RuntimeError, match=r"exit code 1\.\nerror: "):
        train({"model": {"source": "m"}, "data": {"folder": tmp_path / "none"}}, output={"folder": tmp_path / "out"})


def test_an_interrupt_saves_and_the_same_call_continues(tiny_run: Options, capsys: pytest.CaptureFixture[str]) -> None:
    config = sections(tiny_run | {"train.steps": 500, "checkpoint.every": 500})
    folder, before, words = Path(str(tiny_run["output.folder"])), handlers(), [*sys.argv]

    def interrupt() -> None:
        deadline = time.monotonic() + 150
        while not metrics(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert train(config) == folder
    thread.join()
    assert (handlers(), sys.argv) == (before, words)
    assert "the same command continues" in capsys.readouterr().out and not (folder / "run.json").exists()
    (saved,) = (folder / "checkpoints").glob("step_*")
    step = int(saved.name.removeprefix("step_"))
    assert 0 < step < 500
    train(config, train=config["train"] | {"steps": step + 1})
    assert f"at step {step} of {step + 1}" in capsys.readouterr().out and (folder / "run.json").exists()


CELLS = """
import json, os, pathlib, signal, sys, threading, time
from accelerate import notebook_launcher
from finetune.notebook import train

config, folder, ports = json.loads({config!r}), pathlib.Path({folder!r}), {ports}

def interrupt():
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    notebook_launcher(lambda: train(config), num_processes=2, use_port=ports[0])
except Exception as error:  # of torch's launcher
    print("the cell ended by", type(error).__name__)
(saved,) = (folder / "checkpoints").glob("step_*")
config["train"]["steps"] = int(saved.name.removeprefix("step_")) + 1
notebook_launcher(lambda: train(config), num_processes=2, use_port=ports[1])
assert sys.argv == [__file__]
print("ended after", config["train"]["steps"])
"""


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.mark.slow
def test_the_notebook_launcher_trains_on_two_processes_and_an_interrupt_saves(
    tiny_run: Options, tmp_path: Path
) -> None:
    config = json.dumps(sections(tiny_run | {"train.steps": 500, "checkpoint.every": 500}), default=str)
    script, ports = tmp_path / "cells.py", [free_port(), free_port()]
    script.write_text(CELLS.format(config=config, folder=str(tmp_path / "out"), ports=ports))
    output = succeeded([str(script)], ACCELERATE_USE_CPU="true", PYTHONPATH=str(ROOT))
    assert "2 processes on" in output and "the cell ended by SignalException" in output
    assert "Resuming from" in output and f"ended after {len(metrics(tmp_path / 'out'))}" in output
    assert (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_the_cells_of_the_example_run(tmp_path: Path) -> None:
    book = json.loads(NOTEBOOK.read_text())
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in book["cells"])
    text = "\n".join(cells)
    for part, small in (
        ("STEPS = 200", "STEPS = 2"),
        ('{"every": STEPS,', '{"every": STEPS, "num_inference_steps": 2,'),
    ):
        assert part in text
        text = text.replace(part, small)
    (tmp_path / "cells.py").write_text(f"import os\nos.chdir({str(tmp_path)!r})\n" + text)
    ended = command([str(tmp_path / "cells.py")], PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "before_after.png").exists() and (tmp_path / "run" / "report.html").exists()
    assert list((tmp_path / "run" / "export").glob("*.safetensors"))
