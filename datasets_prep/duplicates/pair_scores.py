"""Agreements of pairs of images that were compared before."""

from typing import Protocol


class PairScores(Protocol):
    """Agreements of pairs that were looked at before; the first is the better one of the two in the keep order.

    An agreement depends on the two images, `finetune.similarity.agreement.VERSION` and `can_verify()`, and on nothing
    else.
    """

    def get(self, first: int, second: int) -> float | None:
        """Returns the agreement of two images, None if they were not looked at."""
        ...

    def put(self, first: int, second: int, score: float) -> None:
        """Notes it."""
        ...


class Scores:
    """Agreements in memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], float] = {}

    def get(self, first: int, second: int) -> float | None:
        """Returns the agreement of two images, None if they were not looked at."""
        return self.known.get((first, second))

    def put(self, first: int, second: int, score: float) -> None:
        """Notes it."""
        self.known[first, second] = score
