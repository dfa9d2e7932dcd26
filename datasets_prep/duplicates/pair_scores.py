"""Agreement scores of pairs of images that were compared before."""

from typing import Protocol


class PairScores(Protocol):
    """A cache of agreement scores; the better-ranked image comes first. A score depends only on the two images,
    `finetune.similarity.agreement.VERSION` and `can_verify()`."""

    def get(self, first: int, second: int) -> float | None:
        """Return the score of a pair, or None."""
        ...

    def put(self, first: int, second: int, score: float) -> None:
        """Cache the score of a pair."""
        ...


class Scores:
    """A cache in memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], float] = {}

    def get(self, first: int, second: int) -> float | None:
        """Return the score of a pair, or None."""
        return self.known.get((first, second))

    def put(self, first: int, second: int, score: float) -> None:
        """Cache the score of a pair."""
        self.known[first, second] = score
