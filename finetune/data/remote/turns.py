"""One process at a time, where several would fetch the same."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.files import try_lock, writing


@contextmanager
def alone(lock: Path, waiting: str | None = None) -> Iterator[None]:
    """Wait until no other process has the lock, saying `waiting` once. A lock ends with its process."""
    with writing(lock):
        file = lock.open("a+")
    with file:
        is_said = waiting is None
        while not try_lock(file.fileno(), belongs_to="open file"):
            if not is_said:
                print(waiting, file=sys.stderr, flush=True)
            is_said = True
            time.sleep(0.1)
        yield
