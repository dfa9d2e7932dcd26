"""Commands as users start them, alone and by `accelerate launch`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.runs import Options, flags

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]


def command(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, as in a shell in the repository."""
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | environment, "timeout": 300}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


def succeeded(arguments: list[str], **environment: str) -> str:
    """Run Python as `command` does, to a good end. Return what was printed."""
    ended = command(arguments, **environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def two_processes(recipe: str, options: Options, *words: str) -> list[str]:
    """Give the arguments that start `recipes.RECIPE` on two processes."""
    return [*LAUNCH, "--multi_gpu", "--num_processes", "2", *words, "-m", f"recipes.{recipe}", *flags(options)]


def on_two_processes(recipe: str, options: Options, *words: str) -> str:
    """Run `recipes.RECIPE` on two processes, with further words for the launcher."""
    return succeeded(two_processes(recipe, options, *words), ACCELERATE_USE_CPU="true")
