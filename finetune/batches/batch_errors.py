"""Errors of reading and joining batches, as one sentence with the images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import first_few, plural

Item = TypeVar("Item")

ADVICE = (
    "What was saved is kept. Lower train.batch_size and raise train.accumulation instead, or lower data.resolution "
    "or data.num_workers."
)
IN_A_WORKER = " in DataLoader worker process "
"""Part of a worker's error text that torch adds before the traceback."""


def naming_images(doing: str, names: Callable[[], Sequence[str]]) -> AbstractContextManager[None]:
    """Name the images where memory runs out within the context. Other errors pass."""

    def text() -> str:
        images = names()
        verb = "was" if len(images) == 1 else "were"
        return f"while {plural(len(images), 'image')} {verb} {doing}: {first_few(images)}"

    return explaining_out_of_memory(text, ADVICE)


def with_plain_errors(batches: Iterator[Item]) -> Iterator[Item]:
    """Pass batches on. Errors of worker processes lose torch's traceback in their text."""
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
