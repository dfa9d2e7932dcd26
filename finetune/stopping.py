"""Signals that ask a run to save and end: SIGTERM, SIGINT and SIGUSR1."""

import ctypes
import os
import signal
import sys
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: not finished, run the same command again."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1


class StopRequest:
    """Remembers the first such signal; the loop looks at it between two steps. A second SIGINT ends the process at
    once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        """Catches the signals from now on, and SIGTERM for the end of `accelerate launch`, which does not pass it
        on."""
        for number in SIGNALS:
            signal.signal(number, self._remember)
        if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if self.signal is None:
            self.signal = signal.Signals(number)
            text = f"\n{self.signal.name}: saving after this step, then stopping.\n"
            os.write(sys.stderr.fileno(), text.encode())
