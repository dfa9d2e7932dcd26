"""Work on many files on a Ray cluster."""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from datasets_prep.workers.pool import Failure, PoolEngine, Result, Task
from finetune.extras import install_command

CHUNK = 64
"""Tasks that a node gets at a time: a second of work, a few milliseconds to hand out."""


class RayEngine:
    """The cores of a Ray cluster, with the limits of a PoolEngine. A file that fails costs only itself here too. Every
    node needs this package installed and the source under the same path. The work of a lost node is repeated on
    others."""

    def __init__(self, address: str | None, seconds: float, memory_gb: float) -> None:
        self._address = address
        self._seconds = seconds
        self._memory_gb = memory_gb
        self._is_ours = False

    def __enter__(self) -> Self:
        """Connect to the cluster. It is the one at the address, else that of RAY_ADDRESS or of this machine, else a new
        one on this machine alone. An existing connection is used."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                f"engine: ray needs Ray, which is not installed. Run: {install_command('ray')}, or set engine to pool."
            ) from error
        if not ray.is_initialized():
            ray.init(self._address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._is_ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if self._is_ours:
            ray.shutdown()

    def run(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Failure]]:
        import ray
        from ray.exceptions import RayTaskError

        run_chunk = ray.remote(num_cpus=1, max_retries=3)(_run_chunk)
        shared_work = ray.put(work)
        remaining = iter(tasks)
        chunks = iter(lambda: list(itertools.islice(remaining, CHUNK)), [])
        in_flight = []
        try:
            while True:
                most = 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))  # nodes may come and go
                for chunk in itertools.islice(chunks, max(0, most - len(in_flight))):
                    in_flight.append(run_chunk.remote(shared_work, chunk, self._seconds, self._memory_gb))
                if not in_flight:
                    return
                done, in_flight = ray.wait(in_flight, num_returns=1)
                try:
                    results = ray.get(done[0])
                except RayTaskError as error:
                    raise error.cause from None
                yield from results
        finally:
            for chunk in in_flight:
                ray.cancel(chunk, force=True)


def _run_chunk(
    work: Callable[[Task], Result], tasks: list[Task], seconds: float, memory_gb: float
) -> list[tuple[Task, Result | Failure]]:
    with PoolEngine(1, seconds, memory_gb) as engine:
        return list(engine.run(work, tasks))
