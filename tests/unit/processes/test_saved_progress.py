from collections.abc import Iterator

import pytest

from finetune.processes.ranks import Ranks
from finetune.processes.saved_progress import newest_checkpoint_text, next_start_text, note_saved


@pytest.fixture(autouse=True)
def nothing_saved() -> Iterator[None]:
    note_saved(None)
    yield
    note_saved(None)


def test_no_checkpoint_is_promised_before_one_was_saved() -> None:
    assert "No checkpoint was saved yet" in newest_checkpoint_text() and "starts" in next_start_text()
    assert "No checkpoint was saved yet" in Ranks(timeout_seconds=1.0).explanation()


def test_the_newest_checkpoint_is_named() -> None:
    note_saved(40)
    assert newest_checkpoint_text() == "The checkpoint of step 40 is saved."
    assert "up to step 40 is saved" in Ranks(timeout_seconds=1.0).explanation()
