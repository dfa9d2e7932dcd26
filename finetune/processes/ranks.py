"""State that a job's processes share outside of collectives; torch-free.

Each says that it is alive, has a stop request, or has arrived. A collective (NCCL, gloo) ends with an error after
`train.timeout_seconds`. That is right within a step, where all processes do equal work, and wrong where one works alone
for long: an export, a large checkpoint, more than its share of a cache. There the others wait in `exchange`, which
distinguishes a busy process from a frozen one: every process has a thread that counts in a shared store, and a frozen
process has a frozen thread.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from finetune.processes.saved_progress import next_start_text

if TYPE_CHECKING:
    import psutil

Work = TypeVar("Work")

LONGEST_PERIOD = 1.0
SECONDS_TO_RAISE = 5.0
"""Time for a step that waits for a lost process to fail on its own, as with gloo."""
SECONDS_TO_LEAVE = 10.0


class LostProcess(RuntimeError):
    """Another process of the job is gone or frozen."""


class KeyValueStore(Protocol):
    """The part of torch.distributed.Store that is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def delete_key(self, key: str, /) -> bool: ...


class Ranks:
    """This process among the `size` processes of its job."""

    def __init__(
        self, store: KeyValueStore | None = None, rank: int = 0, size: int = 1, timeout_seconds: float = 600.0
    ) -> None:
        """Join the processes of a store; alone without one."""
        self.rank, self.size = rank, size
        self.lost: str | None = None
        """The sentence about the first process that was found gone or frozen."""
        self.asks_to_stop = False
        """Set by the signal handler of this process."""
        self.moves_together = False
        """True where a pass of the network is an exchange (sharded weights), so that all processes have to make the
        same passes."""
        self.others_ask_to_stop = False
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._period = min(LONGEST_PERIOD, timeout_seconds / 10)
        self._others = [other for other in range(size) if other != rank]
        self._local: dict[int, psutil.Process] = {}
        self._closed, self._waits = threading.Event(), False
        self._count = self._rounds = 0
        if store is not None and size > 1:
            for work in (self._watch, self._guard):
                threading.Thread(target=work, name="ranks", daemon=True).start()
            self._local = self._found_here()

    def exchange(self, text: str = "") -> list[str]:
        """Return the texts of all processes by rank, once all called this. Raises LostProcess if one never will."""
        if self._store is None or self.size == 1:
            return [text]
        self._count += 1
        keys = [f"exchange/{self._count}/{rank}" for rank in range(self.size)]
        try:
            with self._waiting():
                self._store.set(keys[self.rank], text)
                pause = 0.001
                while not self._store.check(keys):
                    if self.lost is not None:
                        raise LostProcess(self.lost)
                    time.sleep(pause)
                    pause = min(2 * pause, 0.1)
                texts = [self._store.get(key).decode() for key in keys]
                # All have begun this exchange, so all have read the one before.
                self._store.delete_key(f"exchange/{self._count - 1}/{self.rank}")
        except RuntimeError as error:
            raise LostProcess(self.lost or self._store_is_gone()) from error
        return texts

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        before, self._waits = self._waits, True
        try:
            yield
        finally:
            self._waits = before

    def any(self, claim: bool) -> bool:
        """Return on every process if the claim is true on one."""
        return "yes" in self.exchange("yes" if claim else "no")

    def share(self, work: Sequence[Work]) -> Sequence[Work]:
        """Return this process's part of passes of the network. It is all of them where the processes move together."""
        return work if self.moves_together else work[self.rank :: self.size]

    def ends_early(self, stops: bool) -> bool:
        """Tell if this process ends a loop over its share. Those that move together end together."""
        return self.any(stops) if self.moves_together else stops

    @property
    def keeps_result(self) -> bool:
        """True if this process writes down what its share gave. One does where all have the same."""
        return self.rank == 0 or not self.moves_together

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Guard a block in which this process waits in collectives. If one of them never ends, the process is ended.
        gloo raises as soon as a connection breaks. NCCL may wait for its timeout and then aborts without an explanation
        (read in torch 2.13, not run: no GPU was available)."""
        if self.lost is not None:
            raise LostProcess(self.lost)
        with self._waiting():
            yield

    def explanation(self) -> str:
        """Explain why a collective failed. Waits a moment for the cause to be found."""
        deadline = time.monotonic() + 3 * self._period
        while self.lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.lost or (
            f"the processes of this job did not finish an exchange within {self._timeout_seconds:g} s "
            f"(train.timeout_seconds), or the connection between them broke. {next_start_text()}"
        )

    def leave(self) -> None:
        """Announce that this process ends as planned. The first, which may have the store, ends last."""
        self.close()
        if self._store is None or self.size == 1:
            return
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", "")
            deadline = time.monotonic() + SECONDS_TO_LEAVE
            while self.rank == 0 and time.monotonic() < deadline:
                if self._store.check([f"left/{rank}" for rank in self._others]):
                    break
                time.sleep(0.01)

    def close(self) -> None:
        """Stop watching the others."""
        self._closed.set()

    def _found_here(self) -> "dict[int, psutil.Process]":
        """Find the processes of the job on this machine, by rank."""
        import psutil

        found = {}
        own = psutil.Process()
        for rank, text in enumerate(self.exchange(json.dumps([own.pid, own.create_time()]))):
            pid, created = json.loads(text)
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.pid != own.pid and process.create_time() == created:
                    found[rank] = process
        return found

    def _watch(self) -> None:
        """Count in a thread, and check that the others do."""
        assert self._store is not None
        seen: dict[int, tuple[str, int]] = dict.fromkeys(self._others, ("", 0))
        while not self._closed.wait(self._period) and self.lost is None:
            try:
                self._store.set(f"beat/{self.rank}", f"{self._rounds} {'stop' if self.asks_to_stop else ''}")
                for rank in self._others:
                    self._look(rank, seen)
            except RuntimeError:
                self.lost = self.lost or self._store_is_gone()
            self._rounds += 1
        self._end_if_stuck()

    def _look(self, rank: int, seen: dict[int, tuple[str, int]]) -> None:
        assert self._store is not None
        key = f"beat/{rank}"
        if self._store.check([f"left/{rank}"]):
            return
        beat = self._store.get(key).decode() if self._store.check([key]) else ""
        before, num_silent = seen[rank]
        # Rounds, not seconds: a scheduler may suspend all processes of a job for hours.
        num_silent = num_silent + 1 if beat == before else 0
        seen[rank] = beat, num_silent
        self.others_ask_to_stop |= beat.endswith("stop")
        if rank in self._local and has_ended(self._local[rank]):
            self.lost = (
                f"process {rank} of this job has ended. If it was not killed, it printed why. {next_start_text()}"
            )
        elif num_silent * self._period > self._timeout_seconds:
            self._lose_frozen(rank)

    def _guard(self) -> None:
        """Run the thread that notices a store without response. The first process may have the store and be frozen."""
        rounds, num_stale = -1, 0
        while not self._closed.wait(self._period) and self.lost is None:
            num_stale = num_stale + 1 if self._rounds == rounds else 0
            rounds = self._rounds
            if num_stale * self._period > self._timeout_seconds:
                self._lose_frozen(0)
        self._end_if_stuck()

    def _lose_frozen(self, rank: int) -> None:
        self.lost = (
            f"process {rank} of this job has not answered for {self._timeout_seconds:g} s (train.timeout_seconds): "
            f"it is frozen, or its machine cannot be reached. {next_start_text()}"
        )
        if rank in self._local:
            import psutil

            with contextlib.suppress(psutil.Error):
                self._local[rank].kill()  # no other signal reaches it; the launcher would wait 30 s for it

    def _end_if_stuck(self) -> None:
        if not self._closed.wait(SECONDS_TO_RAISE) and self._waits:
            with contextlib.suppress(OSError):
                os.write(2, f"error in process {self.rank}: {self.lost}\n".encode())
            os._exit(1)  # the main thread waits for something that does not end

    def _store_is_gone(self) -> str:
        return f"the process or launcher that connects the processes of this job is gone. {next_start_text()}"


def has_ended(process: "psutil.Process") -> bool:
    """Check whether the process is gone, or a zombie."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


_ranks = Ranks()


def ranks() -> Ranks:
    """Return this process in its job; alone until `join` was called."""
    return _ranks


def join(store: KeyValueStore, rank: int, size: int, timeout_seconds: float) -> Ranks:
    """Connect with the other processes, once. All call this at the same point."""
    global _ranks
    if _ranks.size != size:
        _ranks = Ranks(store, rank, size, timeout_seconds)
    return _ranks


def refuse_differences(facts: Mapping[str, object]) -> None:
    """Raise ValueError on every process if facts differ from the first one's. The seed is one."""
    gathered = [json.loads(text) for text in ranks().exchange(json.dumps(facts, default=str))]
    first, problems = gathered[0], []
    for rank, other in enumerate(gathered):
        if different := [name for name in first | other if first.get(name) != other.get(name)]:
            shown = ", ".join(f"{n} {brief(other.get(n))} instead of {brief(first.get(n))}" for n in different[:5])
            more = f" and {len(different) - 5} more" if len(different) > 5 else ""
            problems.append(f"process {rank} was started with another setup than process 0: {shown}{more}.")
    if problems:
        ranks().leave()  # all are about to end, the first after the others have seen the facts
        problems.append("Start all processes with the same command, files and versions.")
        raise ValueError("\n".join(problems))


def brief(value: object) -> str:
    """Format a value for a message; hashes are shortened."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_lost_connection(error: BaseException) -> bool:
    """Check whether a collective failed because another process is gone."""
    if isinstance(error, LostProcess) or any(kind.__name__ == "DistError" for kind in type(error).__mro__):
        return True
    texts = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")  # of plain RuntimeErrors
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
