from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirrors import Mirrored, saved_run
from tests.support.remote import InMemory

URL = "memory://bucket/runs/ink"


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Begin and end with empty storage."""
    InMemory().clear()
    yield
    InMemory().clear()


@pytest.fixture
def run(tmp_path: Path) -> Mirrored:
    """A run folder with checkpoints of steps 2 and 4. Nothing is in its mirror yet."""
    return saved_run(tmp_path / "out", URL, 2, 4)
