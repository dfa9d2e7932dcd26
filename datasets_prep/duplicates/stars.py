"""Groups of images that agree, each around its best-ranked image.

Then leftovers join that agree with another image of a group. Letters: N images, M pairs. Images are named by their
ranks, the best first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datasets_prep.duplicates.appearances import Appearances, Kept
from finetune.similarity.agreement import CERTAIN, agreement
from finetune.similarity.codes import ClosePairs

MOST_TRIES = 16
"""Images of groups that a leftover is compared with at most, those with the closest codes first."""
PairScores = Kept[tuple[int, int], float]
"""Agreement by the numbers of two images, the better-ranked first."""


@dataclass(frozen=True)
class Found:
    """The pair of images that makes one a duplicate."""

    keeper: int
    """The first of the group."""
    compared_with: int
    """The keeper, or another of its group."""
    row: int
    """The pair among all pairs."""
    score: float


@dataclass(frozen=True)
class Search:
    """Pairs that may agree, and what comparing them needs."""

    appearances: Appearances
    pairs: ClosePairs
    is_worth: np.ndarray  # [M] which pairs have more in common than their codes
    seen: PairScores

    def score(self, row: int) -> float:
        """Return the agreement of a pair, 0 if not worth comparing."""
        first, second = int(self.pairs.first[row]), int(self.pairs.second[row])
        if not (self.is_worth[row] or self.appearances.are_worth_it(first, second, int(self.pairs.distance[row]))):
            return 0.0
        pair = int(self.appearances.ranked[first]), int(self.appearances.ranked[second])
        score = self.seen.get(pair)
        if score is None:
            score = self.seen[pair] = agreement(self.appearances[first], self.appearances[second])
        return score


def stars(
    search: Search, num: int, links: list[tuple[int, int]] | None, progress: Callable[[int, int], None]
) -> dict[int, Found]:
    """Find the duplicates of each image that is not a duplicate itself. The best-ranked images come first. If `links`
    is given, pairs with a known duplicate are compared too and added if they agree."""
    first, second = search.pairs.first, search.pairs.second
    starts = np.searchsorted(first, np.arange(num + 1))
    found: dict[int, Found] = {}
    for rank in range(num):
        for row in range(starts[rank], starts[rank + 1]):
            other = int(second[row])
            is_link = rank in found or other in found
            if is_link and (links is None or keeper_of(found, rank) == keeper_of(found, other)):
                continue
            score = search.score(row)
            if score < CERTAIN:
                continue
            if not is_link:
                found[other] = Found(rank, rank, row, score)
            elif links is not None:
                links.append((rank, other))
        progress(rank + 1, num)
    return found


def keeper_of(found: dict[int, Found], rank: int) -> int:
    """Return the first image of an image's group."""
    return found[rank].keeper if rank in found else rank


def with_leftovers(search: Search, found: dict[int, Found]) -> dict[int, Found]:
    """Add leftovers that agree with another image of a group. A leftover is the first of its own group, perhaps of one;
    its group comes with it. One step only: that other image agrees with the first of its group, which did not join a
    third group."""
    first, second = search.pairs.first, search.pairs.second
    is_found = np.zeros(int(max(second.max(initial=-1), first.max(initial=-1))) + 1, bool)
    is_found[list(found)] = True
    rows = np.flatnonzero(is_found[first] != is_found[second])
    leftovers = np.where(is_found[first[rows]], second[rows], first[rows])
    members = np.where(is_found[first[rows]], first[rows], second[rows])
    order = np.lexsort((members, search.pairs.distance[rows], leftovers))
    joined: dict[int, Found] = {}
    tries: dict[int, int] = {}
    for leftover, member, row in zip(*(each[order].tolist() for each in (leftovers, members, rows)), strict=True):
        keeper = found[member].keeper
        if keeper in (leftover, *joined) or leftover in joined or tries.get(leftover, 0) >= MOST_TRIES:
            continue
        tries[leftover] = tries.get(leftover, 0) + 1
        score = search.score(row)
        if score >= CERTAIN:
            joined[leftover] = Found(keeper, member, row, score)
    moved = {
        rank: Found(joined[each.keeper].keeper, each.compared_with, each.row, each.score)
        for rank, each in found.items()
        if each.keeper in joined
    }
    return found | moved | joined
