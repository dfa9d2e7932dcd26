"""The processes of `datasets_prep.workers.pool`, and what runs in them."""

import functools
import multiprocessing
import os
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 300
"""Of the text of an error, which may quote a hostile file."""


def start(work: Callable[[Any], object], memory_gb: float) -> tuple[BaseProcess, Connection]:
    """Start a worker process and return it with its connection. It sends "ready", then the results of tasks. It has no
    threads of this process and none of its memory. With a fork server, which has imported what the work needs, the
    first takes 0.1 s and each later one 6 ms; a new interpreter takes 0.1 s every time."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    function = work.func if isinstance(work, functools.partial) else work
    context.set_forkserver_preload([__name__, function.__module__])
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, memory_gb), daemon=True)
    with _inheriting():
        process.start()
    there.close()
    return process, here


@contextmanager
def _inheriting() -> Iterator[None]:
    """Prepare the environment for processes that are started inside the block. They find this process's modules, use
    one thread, and ignore Ctrl-C, on which this process ends them. They do not import the main program, as
    multiprocessing would: that takes long for Ray's, and never ends for a script that calls this module at import."""
    changes: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    changes["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    before = {name: os.environ.get(name) for name in changes}
    if sys.platform != "win32":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # when started later it would end the block below
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(changes)
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(connection: Connection, work: Callable[[Any], object], memory_gb: float) -> None:
    """Work until the connection closes."""
    _isolate(memory_gb)
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer = "done", work(task)
        except MemoryError:
            connection.send(("memory", None))
            return  # libraries may be in disorder now
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001  costs this task, whatever it is
            answer = "raised", _in_words(error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return


def _in_words(error: BaseException) -> str:
    """Describe an error: class, text, and the line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:MOST_CHARACTERS]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def _isolate(memory_gb: float) -> None:
    """Set the process's limits and silence what native decoders print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import fcntl
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = in_use + int(memory_gb * 2**30)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
        # The kernel ends this process (SIGIO) once the command's end of a pipe is closed, however that comes about; a
        # native decoder that hangs would not notice by itself.
        parent = multiprocessing.parent_process()
        assert parent is not None
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, os.O_ASYNC)
        if wait([parent.sentinel], timeout=0):
            sys.exit(1)
