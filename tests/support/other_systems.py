"""Python on Linux made like that on Windows or macOS.

As far as the project can see, modules, signals and calls that they lack are gone, and processes are spawned. On Windows
the file system also refuses what NTFS refuses: links, some names, and to replace, rename or delete what is open or
mapped.
"""

import builtins
import errno
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil

ABSENT_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "readline", "syslog", "posix_ipc")
ABSENT_SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIGQUIT", "SIGSTOP")
ABSENT_OF_OS = {"geteuid", "getuid", "getgid", "fork", "sched_getaffinity", "killpg", "getpgid", "setsid", "statvfs"}
ABSENT_OF_SIGNAL = {"pthread_sigmask", "sigtimedwait", "sigwait", "pthread_kill", "alarm", "setitimer"}
PROJECT = ("finetune", "recipes", "datasets_prep")
FORBIDDEN = set('<>:"|?*')
"""Characters that no file name of Windows has."""


class _View:
    """A module as the project sees it."""

    def __init__(self, module: types.ModuleType, absent: Collection[str] = (), **own: Any) -> None:
        vars(self).update(_module=module, _absent=absent, _own=own)

    def __getattr__(self, name: str) -> Any:
        if name in self._absent:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}", name=name)
        return self._own[name] if name in self._own else getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def make_like_windows() -> None:
    """Change this process. Libraries keep their Linux, but for the file system."""
    import fcntl

    sys.modules["msvcrt"] = _locks(fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signals = [each for each in signal.Signals if each.name not in ABSENT_SIGNALS]
    views = {
        "os": _View(os, ABSENT_OF_OS),
        "signal": _View(signal, {*ABSENT_OF_SIGNAL, *ABSENT_SIGNALS}, Signals=_Signals(signals)),
        "sys": _View(sys, platform="win32"),
    }
    _show(views, ABSENT_MODULES)
    files = types.ModuleType("os")
    vars(files).update(vars(os))
    tempfile._os = files  # type: ignore[attr-defined]  # which there makes files that end with their last user
    _refuse_as_ntfs()


def make_like_macos() -> None:
    """Change this process. Libraries keep their Linux."""
    views = {
        "os": _View(os, {"sched_getaffinity"}),
        "signal": _View(signal, {"sigtimedwait"}),
        "sys": _View(sys, platform="darwin"),
    }
    _show(views, ())


def _show(views: dict[str, _View], absent: Collection[str]) -> None:
    """Let the project see these modules, not Linux's. Processes are spawned."""
    multiprocessing.set_start_method("spawn", force=True)
    whole = builtins.__import__

    def importing(name: str, *arguments: Any, **options: Any) -> Any:
        user = str((arguments[0] or {}).get("__name__")) if arguments else ""
        if user.partition(".")[0] in PROJECT and arguments[3:] == (0,):  # an import statement without dots
            if name in absent:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in views and not arguments[2]:
                return views[name]
        return whole(name, *arguments, **options)

    builtins.__import__ = importing
    for user, module in list(sys.modules.items()):
        for name in views if user.partition(".")[0] in PROJECT else ():
            if vars(module).get(name) is sys.modules[name]:
                setattr(module, name, views[name])


class _Signals(list[signal.Signals]):
    """The signals that there are. Called, it finds one by its number."""

    def __call__(self, number: int) -> signal.Signals:
        return signal.Signals(number)


def _locks(lock: Callable[..., None], kind: int) -> types.ModuleType:
    """Return a msvcrt with its locks of bytes."""
    module: Any = types.ModuleType("msvcrt")
    module.LK_NBLCK = 2

    def locking(descriptor: int, mode: int, num_bytes: int) -> None:
        try:
            lock(descriptor, kind, num_bytes, os.lseek(descriptor, 0, os.SEEK_CUR))
        except OSError as error:
            raise PermissionError(errno.EACCES, "locked") from error

    module.locking = locking
    return module


def _refuse_as_ntfs() -> None:
    """Put checks before the calls that change files."""
    process = psutil.Process()

    def refuse_open(path: Any) -> None:
        """Refuse a file that is open or mapped, or its folder."""
        place = os.path.realpath(os.fsdecode(path))
        used = [each.path for each in process.open_files()]
        used += [each.path for each in process.memory_maps(grouped=True) if each.path.startswith(place)]
        for name in used:
            if name == place or name.startswith(place + os.sep):
                raise PermissionError(errno.EACCES, f"open in this process: {name}", place)

    def refuse_name(path: Any) -> None:
        if isinstance(path, int):
            return
        name = Path(os.fsdecode(path)).name
        if FORBIDDEN & set(name) or (name.endswith((" ", ".")) and name not in (".", "..")):
            raise OSError(errno.EINVAL, "no name of Windows", os.fsdecode(path))

    def checked(call: Callable[..., Any], *checks: Callable[[Any], None]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            for place, check in enumerate(() if "opener" in options else checks):
                if place < len(arguments):
                    check(arguments[place])
            return call(*arguments, **options)

        return run

    def changed(path: Any) -> None:
        refuse_name(path)
        refuse_open(path)

    def new(path: Any) -> None:
        refuse_name(path)
        if os.path.exists(path):
            raise FileExistsError(errno.EEXIST, "it exists", os.fsdecode(path))

    def no_folder(path: Any) -> None:
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a folder cannot be opened", os.fsdecode(path))

    def opened(path: Any) -> None:
        refuse_name(path)
        no_folder(path)

    def no_links(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, "a required privilege is not held by the client")

    for name, checks in {
        "replace": (refuse_open, changed),
        "rename": (refuse_open, new),
        "unlink": (refuse_open,),
        "remove": (refuse_open,),
        "mkdir": (refuse_name,),
        "open": (opened,),
    }.items():
        setattr(os, name, checked(getattr(os, name), *checks))
    builtins.open = io.open = checked(io.open, opened)  # type: ignore[assignment]
    os.symlink = os.link = no_links  # type: ignore[assignment]
    shutil.rmtree.avoids_symlink_attacks = False
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


if __name__ == "__main__":
    {"windows": make_like_windows, "macos": make_like_macos}[sys.argv.pop(1)]()
    from datasets_prep.__main__ import main

    main()
