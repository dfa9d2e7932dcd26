"""Actions as a user without rights, where tests run as root."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534


@contextmanager
def as_another_user() -> Iterator[None]:
    """Check permissions as another user within the block. Skips the test where that is impossible."""
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
