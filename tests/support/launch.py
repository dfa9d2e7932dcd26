"""Commands as users start them, alone and by `accelerate launch`."""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.runs import Options, enter_program, flags, forked_process

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]


def command(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, as in a shell in the repository."""
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | environment, "timeout": 300}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


def forked(arguments: list[str], *, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module as `command` does, in a process with all imports."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "err")]
        process = forked_process(_run_module, (arguments, outputs, os.environ | environment))
        process.join(seconds)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"still running after {seconds} s: {arguments}\n{outputs[1].read_text()}")
        said = [path.read_text() if path.exists() else "" for path in outputs]
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, *said)


def _run_module(arguments: list[str], outputs: list[Path], environment: dict[str, str]) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    enter_program(arguments[1:], *outputs, environment)
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def succeeded(arguments: list[str], *, seconds: float = 300, **environment: str) -> str:
    """Run Python as `command` does, to a good end. Return what was printed.

    The project's modules run in processes that have all imports already. `seconds` is their time.
    """
    is_module = arguments[0] == "-m" and arguments[1].partition(".")[0] in ("finetune", "recipes", "datasets_prep")
    ended = forked(arguments, seconds=seconds, **environment) if is_module else command(arguments, **environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def on_two_processes(recipe: str, options: Options) -> str:
    """Run `recipes.RECIPE` on two processes."""
    words = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "-m", f"recipes.{recipe}", *flags(options)]
    return succeeded(words, ACCELERATE_USE_CPU="true")
