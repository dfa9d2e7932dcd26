"""Standard streams that survive a closed reader or a full disk. What they cannot write is lost."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

from finetune.processes.run_log import PrintedLines, log_lines

LATER = (errno.ENOSPC, errno.EDQUOT)
"""Errors after which a later write may succeed."""

_losses: list[str] = []
_may_be_read_in_part = False


def outlive_lost_output() -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise. A reader may be gone or a disk full. Everything
    that prints goes through them: print, rich, logging, warnings. Without this, `| head` would end a run before it has
    saved, and an exit code would become Python's 120."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed descriptor would go to the next file that is opened, and prints with it
    os.close(descriptor)
    sys.stdout = lasting(sys.stdout, sys.__stdout__, "standard output")
    sys.stderr = lasting(sys.stderr, sys.__stderr__, "standard error")


def let_readers_leave() -> None:
    """End silently when a reader leaves, as in `--help | head`. For commands that do nothing but print."""
    global _may_be_read_in_part
    _may_be_read_in_part = True


def lost_output() -> list[str]:
    """Write one sentence for each standard stream that could not be written."""
    return list(_losses)


def lasting(stream: TextIO | None, original: TextIO | None, name: str) -> TextIO:
    """Return a stream that writes where `stream` does. One that another library put in place stays."""
    if stream is None:  # closed before Python started
        nowhere = LastingFile(io.FileIO(os.devnull, "w"), name)
        return io.TextIOWrapper(io.BufferedWriter(nowhere), encoding="utf-8", line_buffering=True)
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    buffer = stream.buffer
    raw = buffer.raw if isinstance(buffer, io.BufferedWriter) else buffer  # python -u has no buffer
    return io.TextIOWrapper(
        io.BufferedWriter(LastingFile(raw, name)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class LastingFile(io.RawIOBase):
    """A raw file that accepts everything, even what it cannot write."""

    def __init__(self, raw: io.RawIOBase, name: str) -> None:
        self._raw, self._name, self._has_lost = raw, name, False
        self._lines = PrintedLines()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        try:
            written = self._raw.write(data)
        except OSError as error:
            self._lose(error)
            written = None
        taken = len(content) if written is None else written  # None too: not blocking, and nobody reads at the moment
        log_lines(self._lines.add(content[:taken]))
        return taken

    def _lose(self, error: OSError) -> None:
        if error.errno not in LATER:
            with contextlib.suppress(OSError):  # for child processes and libraries, which end or complain
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._raw.fileno())
                os.close(nowhere)
        if error.errno == errno.EPIPE and _may_be_read_in_part:
            return
        if not self._has_lost:
            self._has_lost = True
            _losses.append(f"The {self._name} could not be written ({error.strerror}); some of it is lost.")
            with contextlib.suppress(OSError, ValueError):
                os.write(2, f"warning: {_losses[-1]}\n".encode())
