"""The commands in README and guides, as a reader pastes them."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from accelerate.commands.launch import launch_command_parser

from tests.support.launch import succeeded

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
FAST = (
    "--data.resolution 64 --data.bucket_step 16 --train.steps 4 --train.log_every 2 --optim.warmup_steps 1 "
    "--train.batch_size 2 --preview.num_inference_steps 1 --tracking.names"
)
"""Options that make a command of a guide a matter of seconds on a micro model."""

PROGRAMS = {"python": [], "finetune": ["-m", "finetune.cli"]}


def command_lines(text: str) -> list[str]:
    """Return a text's shell commands in order, each on one line."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(text: str) -> list[list[str]]:
    """Return the shell commands of a text's bash blocks, split into words."""
    return [shlex.split(line, comments=True) for line in command_lines(text)]


def command_with(guide: str, word: str) -> list[str]:
    """Return the command of docs/`guide` that contains the word."""
    return next(command for command in commands((ROOT / "docs" / guide).read_text()) if word in command)


def run_command(command: list[str], stand_ins: Mapping[str, str], extra: list[str]) -> None:
    """Run a command with words replaced and added; it must succeed.

    Words for `accelerate launch` are read as it reads them, and its program runs alone.
    """
    words = [stand_ins.get(word, word) for word in command[1:]] + extra
    if command[:2] == ["accelerate", "launch"]:
        read = launch_command_parser().parse_args(words[1:])
        assert read.module and Path(read.config_file).is_file(), words
        words = ["-m", read.training_script, *read.training_script_args]
    succeeded(PROGRAMS.get(command[0], []) + words)
