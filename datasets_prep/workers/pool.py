"""Worker processes for many files. One that hangs or dies costs only its file."""

import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Generic, Literal, Protocol, Self, TypeVar

from datasets_prep.workers.worker import start

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_QUEUED = 8
"""Tasks queued for a worker, so it need not wait while the caller handles results."""
MOST_QUEUED_BYTES = 32 * 1024
"""What surely fits into a pipe; beyond it a task waits until the worker is idle, because sending it might block."""
MOST_FAILED_STARTS = 5
START_SECONDS = 120.0


@dataclass(frozen=True)
class Failure:
    """Why a task has no result."""

    kind: Literal["timeout", "worker_crashed", "out_of_memory"]
    detail: str


def usable_cores() -> int:
    """Count the cores that this process may use. All cores count except on Linux, where the system says."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Engine(Protocol):
    """A place where work runs."""

    def run(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Failure]]:
        """Yield every task with its result, in any order. Tasks are taken as they are needed, so there may be millions.
        `work` is a function of a module, perhaps in a functools.partial; it and its results are pickled. Its output is
        lost. An exception costs only its task."""
        ...


@dataclass
class _Job(Generic[Task]):
    task: Task
    pickled: bytes
    is_second_try: bool = False


@dataclass
class _Worker(Generic[Task]):
    process: BaseProcess
    connection: Connection
    queue: deque[_Job[Task]] = field(default_factory=deque)
    """Jobs it has and has not returned; it works on the first."""
    since: float = field(default_factory=time.monotonic)
    """When the first job began as far as known here; later, if in doubt."""
    is_ready: bool = False

    def has_room_for(self, job: _Job[Task]) -> bool:
        """Check whether a job can be queued. A second try has its worker to itself."""
        if not self.queue:
            return True
        if self.queue[0].is_second_try or len(self.queue) >= MOST_QUEUED:
            return False
        return sum(len(other.pickled) for other in self.queue) + len(job.pickled) <= MOST_QUEUED_BYTES

    def give(self, job: _Job[Task]) -> None:
        if not self.queue and self.is_ready:
            self.since = time.monotonic()
        self.queue.append(job)
        with suppress(OSError):  # it has died, which reading from it tells as well
            self.connection.send_bytes(job.pickled)

    def finished(self) -> _Job[Task]:
        self.since = time.monotonic()
        return self.queue.popleft()


class PoolEngine:
    """Processes of this machine with limits on time and memory. A task whose process dies or needs too much memory is
    tried once more in a fresh process that does nothing else, so neither what ran there before nor a kill from outside
    rejects a file."""

    def __init__(self, workers: int, seconds: float, memory_gb: float) -> None:
        if sys.platform != "linux":
            warnings.warn("limits.memory_gb is not enforced: only Linux limits a process's memory.", stacklevel=2)
        self._limits = workers, seconds, memory_gb
        self._crews: list[_Crew] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for crew in self._crews:
            crew.end()

    def run(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Failure]]:
        crew: _Crew[Task, Result] = _Crew(work, *self._limits)
        self._crews.append(crew)
        try:
            yield from crew.run(tasks)
        finally:
            crew.end()
            self._crews.remove(crew)


class _Crew(Generic[Task, Result]):
    """The workers of one run."""

    def __init__(self, work: Callable[[Task], Result], num_workers: int, seconds: float, memory_gb: float) -> None:
        self._work = work
        self._num_workers = num_workers
        self._seconds = seconds
        self._memory_gb = memory_gb
        self._workers: list[_Worker[Task]] = []
        self._waiting: deque[_Job[Task]] = deque()
        self._num_failed_starts = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Failure]]:
        remaining = iter(tasks)
        while True:
            self._hand_out(remaining)
            if not any(worker.queue for worker in self._workers):
                return
            yield from self._collect()

    def end(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.connection.close()
        self._workers = []

    def _hand_out(self, remaining: Iterator[Task]) -> None:
        while True:
            if not self._waiting:
                for task in remaining:
                    self._waiting.append(_Job(task, bytes(ForkingPickler.dumps(task))))
                    break
                else:
                    return
            job = self._waiting[0]
            if len(self._workers) < self._num_workers and all(worker.queue for worker in self._workers):
                self._workers.append(_Worker(*start(self._work, self._memory_gb)))
            free = [worker for worker in self._workers if worker.has_room_for(job)]
            if not free:
                return
            min(free, key=lambda worker: len(worker.queue)).give(self._waiting.popleft())

    def _collect(self) -> Iterator[tuple[Task, Result | Failure]]:
        """Wait until a worker reports, dies or exceeds its time."""
        now = time.monotonic()
        left = min(self._limit(worker) - now for worker in self._workers if worker.queue)
        ready = wait([worker.connection for worker in self._workers], timeout=max(0.0, left))
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._failed(worker, "worker_crashed", "")
                continue
            if kind == "ready":
                worker.is_ready, worker.since, self._num_failed_starts = True, time.monotonic(), 0
            elif kind == "done":
                yield worker.finished().task, value
            elif kind == "memory":
                yield from self._failed(worker, "out_of_memory", f"needs more than {self._memory_gb:g} GB of memory")
            else:
                yield worker.finished().task, Failure("worker_crashed", value)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.queue and self._limit(worker) <= now]:
            if not worker.connection.poll():  # where the caller was slow, the result may be waiting
                yield from self._failed(worker, "timeout", f"took longer than {self._seconds:g} seconds")

    def _limit(self, worker: _Worker[Task]) -> float:
        return worker.since + (self._seconds if worker.is_ready else START_SECONDS)

    def _failed(
        self, worker: _Worker[Task], kind: Literal["timeout", "worker_crashed", "out_of_memory"], detail: str
    ) -> Iterator[tuple[Task, Failure]]:
        """End a worker, fail its first task and requeue the others."""
        self._workers.remove(worker)
        if kind == "timeout":
            worker.process.kill()
        worker.connection.close()
        worker.process.join(timeout=1.0)  # also after out of memory it ends by itself, unless that hangs
        worker.process.kill()
        worker.process.join()
        if kind == "worker_crashed":
            detail = _end_in_words(worker.process.exitcode)
        worker.process.close()
        if not worker.is_ready:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MOST_FAILED_STARTS or kind == "timeout":
                raise RuntimeError(f"A process that should work on files did not start: {detail}.")
            self._waiting.extendleft(reversed(worker.queue))
            return
        if not worker.queue:
            return
        job = worker.queue.popleft()
        self._waiting.extendleft(reversed(worker.queue))
        if kind == "timeout" or job.is_second_try:
            yield job.task, Failure(kind, detail)
        else:
            successor = _Worker(*start(self._work, self._memory_gb))
            self._workers.append(successor)
            successor.give(_Job(job.task, job.pickled, is_second_try=True))


def _end_in_words(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"signal {-exitcode} ({signal.Signals(-exitcode).name})"
    except ValueError:  # a real-time signal
        return f"signal {-exitcode}"
