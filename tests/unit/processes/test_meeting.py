"""Processes that meet in a store, here threads."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from finetune.processes.meeting import meet
from finetune.processes.ranks import KeyValueStore, LostProcess


def names(store: KeyValueStore, *delays: float) -> Sequence[str]:
    """Let processes meet, each after its delay; return the names they got."""

    def come(rank: int) -> str:
        time.sleep(delays[rank])
        return meet(store, rank, len(delays), 10)

    with ThreadPoolExecutor(len(delays)) as threads:
        return list(threads.map(come, range(len(delays))))


def test_restarted_processes_agree_on_a_name_that_those_before_did_not_have() -> None:
    store = torch.distributed.HashStore()  # as the launcher keeps it over a restart
    starts = [names(store, *delays) for delays in ((0, 0, 0), (0, 0.05, 0.1), (0.1, 0.05, 0), (0, 0))]
    assert [len(set(start)) for start in starts] == [1, 1, 1, 1]
    assert len({start[0] for start in starts}) == 4


def test_a_process_that_never_comes_is_not_taken_for_the_one_before() -> None:
    store = torch.distributed.HashStore()
    names(store, 0, 0)
    for rank in (0, 1):
        with pytest.raises(LostProcess, match=r"did not find each other within 0.2 s"):
            meet(store, rank, 2, 0.2)
