"""Faults that a child process sets up before its recipe starts. There are no mocks."""

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.processes import signals as stopping

CHANGES = {"open", "shutil.rmtree"} | {
    f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "truncate", "listdir", "scandir")
}
"""Audit events (PEP 578) that Python raises just before it asks the file system for something."""


@dataclass(frozen=True)
class WhileSaving:
    """An action at the N-th file-system event of the first save. Events count from 1."""

    number: int
    act: Callable[[], None]

    def __call__(self) -> None:
        seen = [0]
        has_begun = [False]

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            # shutil.rmtree names files relative to an open folder. All else that is opened is Python's own modules.
            is_ours = "checkpoints" in str(arguments[:1]) or event in ("os.remove", "os.scandir")
            if event not in CHANGES or not is_ours:
                return
            has_begun[0] = has_begun[0] or (event == "os.mkdir" and ".tmp-step_" in str(arguments[0]))
            if has_begun[0]:
                seen[0] += 1
                if seen[0] == self.number:
                    self.act()

        sys.addaudithook(watch)


@dataclass(frozen=True)
class WhenOpened:
    """An action just before a file of that name is first opened."""

    name: str
    act: Callable[[], None]

    def __call__(self) -> None:
        waits = [True]

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open" and waits[0] and str(arguments[0]).endswith(self.name):
                waits[0] = False
                self.act()

        sys.addaudithook(watch)


def die() -> None:
    """End this process as kill -9 or the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class FileSizeLimit:
    """A limit on file sizes, which ends writes in the middle."""

    num_bytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))


def fork_workers() -> None:
    """Start data loader workers as outside of the tests' fork server."""
    multiprocessing.set_start_method("fork", force=True)


def lead_a_group() -> None:
    """Put the process and its workers into a group for signals."""
    fork_workers()
    os.setpgrp()


@dataclass(frozen=True)
class FillDisk:
    disk: Path

    def __call__(self) -> None:
        with (self.disk / "ballast").open("wb", buffering=0) as file:
            free = shutil.disk_usage(self.disk).free
            file.write(bytes(free))


@dataclass(frozen=True)
class LimitMemoryWhenOpened:
    """Little free memory once a file is opened, like a full GPU."""

    name: str
    num_bytes: int

    def __call__(self) -> None:
        WhenOpened(self.name, self.limit)()

    def limit(self) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + self.num_bytes, resource.RLIM_INFINITY))


def every_interrupt_counts() -> None:
    """Make the second Ctrl-C a later one, however soon it comes."""
    stopping.SECONDS_OF_ONE_REQUEST = 0.0


def without_privileges() -> None:
    """Drop root's right to write to read-only folders. The user stays, so Python still finds itself."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface; this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def wait_for_tracer() -> None:
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        time.sleep(0.01)
