"""Bounded memory of many rows: their places, and the lowest few."""

import hashlib
import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_AT_ONCE = 100_000


def key_of(source: object) -> int:
    """Hash a name to 64 bits. Two of a million names collide in one of tens of millions of datasets."""
    return int.from_bytes(hashlib.blake2b(str(source).encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(frozen=True)
class Places:
    """The rows of images by name, at 12 bytes per row."""

    keys: np.ndarray  # [N] uint64, sorted
    rows: np.ndarray  # [N] uint32, the row of each key

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, sources: Sequence[str]) -> np.ndarray:
        """Find the rows of images, -1 for images without one."""
        if not len(self):
            return np.full(len(sources), -1)
        keys = np.fromiter((key_of(source) for source in sources), np.uint64, len(sources))
        at = np.searchsorted(self.keys[1:], keys, side="right")
        return np.where(self.keys[at] == keys, self.rows[at].astype(np.int64), -1)

    def having(self, lists: Sequence[Sequence[str]]) -> np.ndarray:
        """Mark the rows [N] of images in any of the lists. Lists may be long."""
        found = np.zeros(len(self), bool)
        for sources in lists:
            for start in range(0, len(sources), MOST_AT_ONCE):
                places = self.of(sources[start : start + MOST_AT_ONCE])
                found[places[places >= 0]] = True
        return found


def places_of(keys: "array[int]") -> Places:
    """Index rows by these keys, one per row."""
    unsorted = np.frombuffer(keys, np.uint64)
    order = np.argsort(unsorted, kind="stable").astype(np.uint32)
    return Places(unsorted[order], order)


class Least:
    """The few lowest of many (value, place). Places only grow, so the first of equal values stays."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._found: list[tuple[float, int]] = []
        self.bound = float("inf")
        """Values from here on change nothing."""

    def add(self, value: float, place: int) -> None:
        if value < self.bound:
            self._found.append((value, place))
            if len(self._found) >= 4 * self._num:
                self._found = heapq.nsmallest(self._num, self._found)
                self.bound = self._found[-1][0]

    def places(self) -> list[int]:
        """Return the places of the lowest values, the lowest first."""
        return [place for _, place in heapq.nsmallest(self._num, self._found)]
