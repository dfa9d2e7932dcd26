"""OUT/run.log: the lines that a run prints, without progress bars' redraws."""

import contextlib
import os
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

CONTROLS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
"""Sequences that colour text and move a terminal's cursor (ECMA-48, sections 5.3 and 5.4)."""
MOST_EARLY_LINES = 1000

_early: list[str] = []
"""Lines from before the log was opened; a command that fails before it has a run folder writes none."""
_descriptor: int | None = None


class PrintedLines:
    """Cut a stream into lines as a terminal finally shows them."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[str]:
        """Return complete lines, redrawn ones in their last state."""
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[rest.rfind(b"\r", 0, -1) + 1 :]  # a redrawn line may never end
        return [self._shown(line.decode("utf-8", "replace")) for line in whole]

    @staticmethod
    def _shown(line: str) -> str:
        return CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip()


def log_lines(lines: list[str]) -> None:
    """Write lines to the log, or keep them until it is opened. A full disk loses them and nothing else."""
    if _descriptor is None:
        _early.extend(lines[: MOST_EARLY_LINES - len(_early)])
    elif lines:
        with contextlib.suppress(OSError):
            os.write(_descriptor, "".join(f"{line}\n" for line in lines).encode())


def open_run_log(file: Path) -> None:
    """Begin or continue the log of a run. It begins with the time, the command and earlier lines. The log of an earlier
    stage is closed, because that stage has ended."""
    global _descriptor
    if _descriptor is not None:
        os.close(_descriptor)
    _descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    log_lines([f"=== {began} {shlex.join(sys.argv)}", *_early])
    _early.clear()
