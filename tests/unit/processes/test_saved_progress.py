"""What is said about checkpoints where a run ends early."""

from collections.abc import Iterator

import pytest

from finetune.processes.ranks import Ranks
from finetune.processes.saved_progress import note_saved, what_comes_next, what_is_saved


@pytest.fixture(autouse=True)
def nothing_saved() -> Iterator[None]:
    note_saved(None)
    yield
    note_saved(None)


def test_no_checkpoint_is_promised_before_one_was_saved() -> None:
    assert "No checkpoint was saved yet" in what_is_saved() and "starts" in what_comes_next()
    assert "No checkpoint was saved yet" in Ranks(timeout_seconds=1.0).explanation()


def test_the_newest_checkpoint_is_named() -> None:
    note_saved(40)
    assert what_is_saved() == "The checkpoint of step 40 is saved."
    assert "up to step 40 is saved" in Ranks(timeout_seconds=1.0).explanation()
