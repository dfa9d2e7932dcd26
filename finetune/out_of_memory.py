"""Messages for running out of memory: activity, size and advice; torch-free."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHRASES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "could not create a primitive",
)
"""Texts in a plain RuntimeError of torch, as on a CPU, and of the libraries below it. The last is oneDNN's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether the device or the host ran out of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    says_so = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in PHRASES)
    return isinstance(error, MemoryError) or says_so


@contextmanager
def explaining_out_of_memory(doing: str | Callable[[], str], advice: str) -> Iterator[None]:
    """Turn running out of memory into a ValueError: "out of memory DOING. ADVICE". A callable is called only then."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"out of memory {doing if isinstance(doing, str) else doing()}. {advice}") from error
