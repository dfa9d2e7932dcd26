"""Uploads in a thread of the first process, beside training.

One upload is on its way at a time, of the folder as it is then. A save waits for the one before, unless that fails: a
failure is tried again with growing pauses, is said with its count, and never ends training. The next save tries again.
"""

import threading
import time
from collections.abc import Callable

from finetune.config.train import TrainConfig
from finetune.processes.ranks import ranks
from finetune.processes.signals import end_on_signals
from finetune.run_folder.mirror.claim import MirrorTakenError, read_claim, write_claim
from finetune.run_folder.mirror.contents import Step, newest_first, num_steps
from finetune.run_folder.mirror.storage import MirrorStorage
from finetune.run_folder.mirror.upload import Upload

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds between the tries of an upload."""
SECONDS_AFTER_STOP = 240.0
"""For the last upload of a stopped run: the examples for Slurm and Kubernetes leave 300 seconds to save and end."""
SECONDS_AFTER_FAILURE = 60.0


class Uploads:
    """The thread, and what training wants of it."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._changed = threading.Condition()
        self._wanted = self._handled = 0
        self._is_failing = self._has_waited = False
        self._num_failures = 0
        self._problem: str | None = None
        self._bug: BaseException | None = None
        threading.Thread(target=self._work, name="uploads", daemon=True).start()

    def request(self) -> None:
        """Upload the folder as it is when the thread comes to it."""
        with self._changed:
            self._wanted += 1
            self._is_failing = False
            self._changed.notify_all()

    def wait_for_room(self, stops: Callable[[], bool]) -> None:
        """Wait until the upload before ends or fails, or `stops` is true."""
        while not self._settled(0.0, even_failed=True) and not stops():
            if not self._has_waited:
                self._has_waited = True
                say(
                    f"output.mirror: an upload to {self._upload.storage.url} takes longer than the steps between two "
                    "checkpoints, so saves wait for it; a larger checkpoint.every avoids this. This is said once."
                )
            self._settled(0.2, even_failed=True)

    def finish(self, seconds: float | None) -> str | None:
        """Wait for all requests; return a sentence where something did not arrive."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._settled(0.2):
            if deadline is not None and time.monotonic() > deadline:
                return self._missing(self._problem or f"it took longer than {seconds:g} s")
        return self._problem and self._missing(self._problem)

    @property
    def is_busy(self) -> bool:
        """True while an upload is on its way."""
        return not self._settled(0.0)

    def _settled(self, seconds: float, *, even_failed: bool = False) -> bool:
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._bug or self._handled == self._wanted or (even_failed and self._is_failing), seconds
            )
        if self._bug is not None:
            raise self._bug
        return bool(done)

    def _missing(self, reason: str) -> str:
        """Say what the mirror lacks, and what to do."""
        arrived = newest_first(self._upload.arrived)
        newest = f"the checkpoint of step {arrived[0].number:,} is the newest there" if arrived else "none is there"
        return (
            f"output.mirror: not everything arrived in {self._upload.storage.url} ({reason.rstrip('.')}); {newest}. "
            f"All of it is in {self._upload.folder}: the same command uploads the rest."
        )

    def _work(self) -> None:
        """Upload whenever something is wanted."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._wanted > self._handled)
                    number = self._wanted
                problem = self._try_until_done(number)
                with self._changed:
                    self._handled, self._problem = number, problem
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  (raised in the main thread, which would wait for ever)
            with self._changed:
                self._bug = error
                self._changed.notify_all()

    def _try_until_done(self, number: int) -> str | None:
        """Upload with further tries; return why it failed. A newer request replaces the pause before the next try."""
        for wait in (*WAITS, None):
            try:
                before = set(self._upload.arrived)
                self._upload.upload()
            except MirrorTakenError as error:
                say(f"warning: {error}")
                return str(error)
            except (OSError, ValueError) as error:
                with self._changed:
                    self._is_failing, self._problem = True, str(error)
                    self._changed.notify_all()
                self._note_failure(str(error), wait)
                with self._changed:
                    if wait is None or self._changed.wait_for(lambda: self._wanted > number, wait):
                        return str(error)
            else:
                with self._changed:
                    self._is_failing = False
                self._note_success(newest_first(set(self._upload.arrived) - before))
                return None
        raise AssertionError("the last try returns")

    def _note_failure(self, text: str, wait: float | None) -> None:
        """Print the first failure, and the count after the last."""
        self._num_failures += 1
        if self._num_failures == 1:
            say(f"warning: {text} Training continues, and the upload is tried again.")
        elif wait is None:
            say(f"warning: output.mirror: {self._num_failures} tries failed in a row. The next checkpoint tries again.")

    def _note_success(self, steps: list[Step]) -> None:
        """Print the first arrival, and the one after failures."""
        if self._num_failures or (steps and len(steps) == len(self._upload.arrived)):
            after = f", after {self._num_failures} failed tries" if self._num_failures else ""
            say(f"output.mirror: step {num_steps(self._upload.arrived):,} is in {self._upload.storage.url}{after}.")
        self._num_failures = 0


_uploads: Uploads | None = None
"""Of the first process, where the run has a mirror."""


def begin_uploads(config: TrainConfig) -> None:
    """Take the mirror for this start of the run. The first process calls it. Raises OSError where nothing can be
    written there."""
    global _uploads
    _uploads = None
    if config.output.mirror is None:
        return
    storage = MirrorStorage(config.output.mirror.rstrip("/"))
    storage.refuse_unwritable()
    claim = read_claim(storage).renewed()
    write_claim(storage, claim)
    thread_storage = MirrorStorage(storage.url, waits=())
    _uploads = Uploads(Upload(config.output.folder, thread_storage, claim, config.checkpoint.keep))


def request_upload() -> None:
    """Upload what the run folder holds, beside training. Does nothing without a mirror, as the others do."""
    if _uploads is not None:
        _uploads.request()


def wait_for_room(stops: Callable[[], bool]) -> None:
    """Wait for the upload before this save."""
    if _uploads is not None:
        _uploads.wait_for_room(stops)


def upload_stopped() -> None:
    """Upload a stopped run for a bounded time. Prints what did not arrive."""
    if _uploads is None:
        return
    say(
        f"output.mirror: uploading what was saved, for at most {SECONDS_AFTER_STOP:g} s. Another Ctrl-C ends at once; "
        "what is saved stays."
    )
    _uploads.request()
    if problem := _uploads.finish(SECONDS_AFTER_STOP):
        say(f"warning: {problem}")


def upload_after_failure() -> None:
    """Wait a bounded time for an upload on its way."""
    if _uploads is not None and _uploads.is_busy and (problem := _uploads.finish(SECONDS_AFTER_FAILURE)):
        say(f"warning: {problem}")


def finish_uploads(config: TrainConfig) -> None:
    """Upload the rest of a finished run. All processes of the job call it. Raises OSError where something did not
    arrive."""
    global _uploads
    if config.output.mirror is None:
        return
    end_on_signals("the run is finished and kept in its output.folder; the same command uploads the rest.")
    uploads, _uploads, problem = _uploads, None, None
    if uploads is not None:
        uploads.request()
        problem = uploads.finish(None)
        if problem is None:
            say(f"output.mirror: the whole run is in {config.output.mirror}.")
    if problem := ranks().exchange(problem or "")[0]:
        raise OSError(problem)


def say(text: str) -> None:
    """Print at once. The log of a lost machine should have it."""
    print(text, flush=True)
