"""What goes wrong while batches are read and put together, as one sentence that names the images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from finetune.data.entries import first_few
from finetune.plurals import plural

Item = TypeVar("Item")

ADVICE = (
    "The last checkpoint stands. Lower train.batch_size and raise train.accumulation instead, or lower data.resolution "
    "or data.num_workers."
)
IN_A_WORKER = " in DataLoader worker process "
"""What torch writes into the text of an error of a worker, before the whole traceback."""


@contextmanager
def naming_images(doing: str, names: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Turns running out of memory into a ValueError that says for which images; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        images = names()
        raise ValueError(
            f"out of memory while {plural(len(images), 'image')} {'was' if len(images) == 1 else 'were'} {doing}: "
            f"{first_few(images)}. {ADVICE}"
        ) from error


def with_plain_errors(batches: Iterator[Item]) -> Iterator[Item]:
    """Yields the batches; raises errors of worker processes without torch's traceback in their text."""
    try:
        yield from batches
    except (ValueError, OSError, RuntimeError) as error:
        text = str(error)
        if IN_A_WORKER in text and isinstance(error, ValueError | OSError):
            raise ValueError(text.rstrip().rpartition(f"{type(error).__name__}: ")[2]) from error
        if "DataLoader worker" in text and isinstance(error, RuntimeError) and IN_A_WORKER not in text:
            reason = text.splitlines()[0]
            raise ValueError(
                f"a process that reads images ahead ended ({reason}), most often for want of memory. {ADVICE}"
            ) from error
        raise
