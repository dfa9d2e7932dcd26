"""Faults that a child process of `tests.runs` prepares for itself before its recipe starts; picklable, and no mocks."""

import os
import pwd
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHANGES = frozenset(
    "open os.rename os.remove os.mkdir os.rmdir os.truncate os.listdir os.scandir shutil.rmtree".split()
)
"""Audit events (PEP 578) that Python raises just before it asks the file system for something."""


@dataclass(frozen=True)
class WhileSaving:
    """Does something at the N-th file-system event after the first checkpoint began to be written, counted from 1."""

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


def die() -> None:
    """Ends this process as kill -9 or the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class FileSizeLimit:
    """Lets no file of the process grow beyond so many bytes: writing fails in the middle of a file."""

    num_bytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))


@dataclass(frozen=True)
class AsNobody:
    """Gives up root, for whom no folder is read-only."""

    home: Path

    def __call__(self) -> None:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        os.environ["HOME"] = str(self.home)
