"""Millions of short texts without an object for each."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """Texts in one block of memory: UTF-8 and eight bytes each. Names with undecodable bytes are supported."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._ends = array("q", [0])
        self._bytes = bytearray()
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def only(self, chosen: Sequence[int] | np.ndarray) -> "Texts":
        """Select texts by rising indices. Selecting all returns the object itself."""
        return self if len(chosen) == len(self) else Texts(self[int(index)] for index in chosen)
