"""Handle requests to save and end: SIGTERM, SIGINT, SIGHUP and SIGUSR1."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from finetune.processes.ranks import ranks
from finetune.processes.run_log import log_lines

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: not finished, run the same command again."""

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")
SIGNALS = tuple(number for number in signal.Signals if number.name in NAMES)
"""Those of them that this system has: Windows lacks SIGHUP and SIGUSR1, and its own Ctrl-Break is SIGBREAK."""
SECONDS_OF_ONE_REQUEST = 3.0
"""A terminal and a launcher may both send a signal that the user sent once."""
PR_SET_PDEATHSIG = 1
SHOW_CURSOR = "\x1b[?25h"
PARENT_CHECK_SECONDS = 2.0


def caught_signals() -> list[signal.Signals]:
    """List the signals to catch. SIGHUP that is ignored at the start, as under nohup, stays ignored. torchrun and
    `accelerate launch` with several processes catch SIGHUP themselves, also under nohup, and end their processes; those
    do not inherit that it was ignored, so they save."""
    return [n for n in SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]


class StopRequest:
    """The first such signal, which the loop reads between steps and images. A SIGINT more than `SECONDS_OF_ONE_REQUEST`
    later, unless the run is saving, ends the process at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._is_saving = False

    def install(self) -> None:
        """Catch the signals from now on."""
        for number in caught_signals():
            signal.signal(number, self._remember)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Ignore a second SIGINT within the block."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def requested(self) -> bool:
        """True if this process, or a second ago another, got the signal."""
        return self.signal is not None or ranks().others_ask_to_stop

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
            ranks().asks_to_stop = True
            print_on_first_process(f"\n{self.signal.name}: saving after this step or image, then stopping.\n")
        elif number == signal.SIGINT and now - self._since > SECONDS_OF_ONE_REQUEST and not self._is_saving:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)


def end_on_signals(meaning: str) -> None:
    """End the process at once on a signal. The exit code is `EXIT_CODE`. No exception is
    raised, since libraries may swallow one or print it while they import, load or export."""

    def end(number: int, frame: FrameType | None) -> None:
        show_cursor = SHOW_CURSOR if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        print_on_first_process(f"{show_cursor}\n{signal.Signals(number).name}: {meaning}\n")
        os._exit(EXIT_CODE)

    for number in caught_signals():
        signal.signal(number, end)


def end_with_launcher() -> None:
    """Request SIGTERM at the end of `accelerate launch`, which forwards none."""
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def outlive_signals(worker: int) -> None:
    """Let a data loader's worker survive signals to the job. Its parent ends it. torchrun, SLURM and systemd signal
    every process; a worker that dies of it takes the run down before it has saved."""
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


def print_on_first_process(text: str) -> None:
    """Write to stderr on the first process. Ignore a terminal that is gone."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), text.encode())
        log_lines([text.strip().removeprefix(SHOW_CURSOR).strip()])
