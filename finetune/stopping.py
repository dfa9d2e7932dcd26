"""Signals that ask a run to save and end: SIGTERM, SIGINT and SIGUSR1."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: not finished, run the same command again."""

SIGNALS = tuple(number for number in signal.Signals if number.name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK"))
"""Those of them that this system has: Windows lacks SIGUSR1, and its own Ctrl-Break is SIGBREAK."""
PR_SET_PDEATHSIG = 1
SHOW_CURSOR = "\x1b[?25h"
PARENT_CHECK_SECONDS = 2.0


class StopRequest:
    """Remembers the first such signal; the loop looks at it between two steps. A second SIGINT ends the process at
    once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        """Catches the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if self.signal is None:
            self.signal = signal.Signals(number)
            tell(f"\n{self.signal.name}: saving after this step, then stopping.\n")


def end_on_signals(meaning: str) -> None:
    """Lets the signals end the process at once with `EXIT_CODE`, for the times when there is nothing to save.

    No exception is raised, since libraries may swallow one or print it while they import, load or export.
    """

    def end(number: int, frame: FrameType | None) -> None:
        show_cursor = SHOW_CURSOR if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        tell(f"{show_cursor}\n{signal.Signals(number).name}: {meaning}\n")
        os._exit(EXIT_CODE)

    for number in SIGNALS:
        signal.signal(number, end)


def end_with_launcher() -> None:
    """Asks for SIGTERM at the end of `accelerate launch`, which does not pass on the one it gets."""
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def outlive_signals(worker: int) -> None:
    """Lets a data loader's worker survive what is sent to all processes of a job; only its parent ends it.

    torchrun, SLURM and systemd signal every process; a worker that dies of it takes the run down before it has saved.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an ignored signal would not reach sigtimedwait

    def wait() -> None:
        while parent.is_alive():
            received = signal.sigtimedwait([signal.SIGTERM], PARENT_CHECK_SECONDS)
            if received is not None and received.si_pid == parent.pid:
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def tell(text: str) -> None:
    """Writes to stderr on the first process; a terminal that is gone is no reason not to save."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), text.encode())
