"""Processes that share their state, here threads with one store."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from finetune.processes.ranks import LostProcess, Ranks, is_lost_connection

SECONDS = 0.3


def together(*parts: Callable[[Ranks], object]) -> list[Future[object]]:
    """Run each part as a process of one job; return their ends."""
    store = torch.distributed.HashStore()

    def work(rank: int) -> object:
        ranks = Ranks(store, rank, len(parts), SECONDS)
        try:
            return parts[rank](ranks)
        finally:
            ranks.close()

    with ThreadPoolExecutor(len(parts)) as threads:
        return [threads.submit(work, rank) for rank in range(len(parts))]


def test_an_exchange_gives_all_texts_to_all_in_the_order_of_the_ranks() -> None:
    def twice(ranks: Ranks) -> list[list[str]]:
        return [ranks.exchange(f"{ranks.rank}, {number}") for number in range(2)]

    expected = [["0, 0", "1, 0", "2, 0"], ["0, 1", "1, 1", "2, 1"]]
    assert [end.result() for end in together(twice, twice, twice)] == [expected] * 3


def test_a_process_that_works_alone_for_longer_than_the_timeout_is_waited_for() -> None:
    def work_long(ranks: Ranks) -> list[str]:
        time.sleep(3 * SECONDS)
        return ranks.exchange("done")

    ends = together(work_long, lambda ranks: ranks.exchange("waited"))
    assert [end.result() for end in ends] == [["done", "waited"]] * 2


def test_a_process_whose_threads_stand_still_is_lost() -> None:
    def freeze(ranks: Ranks) -> None:
        ranks.close()

    _, end = together(freeze, lambda ranks: ranks.exchange())
    with pytest.raises(LostProcess, match=r"process 0 .* has not answered for 0.3 s \(train.timeout_seconds\)"):
        end.result()


def test_a_process_that_left_as_planned_is_not_missed() -> None:
    def work(ranks: Ranks) -> str | None:
        time.sleep(3 * SECONDS)
        lost = ranks.lost
        ranks.leave()  # rank 0 waits for it
        return lost

    ends = together(Ranks.leave, work)
    assert ends[1].result() is None


def test_a_request_to_stop_reaches_the_others() -> None:
    def ask(ranks: Ranks) -> None:
        ranks.asks_to_stop = True
        ranks.exchange()

    def work(ranks: Ranks) -> bool:
        deadline = time.monotonic() + 10
        while not ranks.others_ask_to_stop and time.monotonic() < deadline:
            time.sleep(0.01)
        ranks.exchange()
        return ranks.others_ask_to_stop

    assert together(ask, work)[1].result() is True


def test_any_is_true_on_all_where_it_is_true_on_one() -> None:
    ends = together(*(lambda ranks, claim=claim: ranks.any(claim) for claim in (False, True, False)))
    assert [end.result() for end in ends] == [True, True, True]
    assert Ranks().any(True) and not Ranks().any(False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer"), True),
        (torch.distributed.DistStoreError("wait timeout after 10000ms"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (LostProcess("process 1 is gone"), True),
    ],
)
def test_errors_of_a_lost_connection_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_lost_connection(error) is expected
