"""Images ready for comparison; slow results are cached by content."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from finetune.similarity.agreement import ComparedImage, is_worth_a_look, look_at
from finetune.similarity.codes import Codes
from finetune.similarity.corners import Descriptors, descriptors_of

LOOKS_KEPT = 256
"""Images ready for comparison that stay in memory, about 1 MB each."""
Load = Callable[[int], Image.Image]
DESCRIPTOR_BYTES = 32
Key = TypeVar("Key", contravariant=True)
Value = TypeVar("Value")


class Kept(Protocol[Key, Value]):
    """A cache, such as a dict. Results depend on the contents of images alone."""

    def get(self, key: Key, /) -> Value | None: ...
    def __setitem__(self, key: Key, value: Value, /) -> None: ...


KeptBytes = Kept[tuple[int, str], bytes]
"""By an image's number and the kind of result."""


class Appearances:
    """Images ready for comparison, by rank. Those used last stay in memory."""

    def __init__(self, load: Load, ranked: np.ndarray, flat: np.ndarray, codes: Codes, kept: KeptBytes) -> None:
        self.load, self.ranked, self.flat, self.codes, self.kept = load, ranked, flat, codes, kept
        self._looks: OrderedDict[int, ComparedImage] = OrderedDict()
        self._natures: dict[int, tuple[bool, bool]] = {}

    def __getitem__(self, rank: int) -> ComparedImage:
        if rank in self._looks:
            self._looks.move_to_end(rank)
            return self._looks[rank]
        number = int(self.ranked[rank])
        look = look_at(self.load(number), self.codes[number], is_simple=bool(self.flat[number]))
        self._looks[rank] = look
        if rank not in self._natures:
            self._natures[rank] = look.is_simple, look.is_plain
            self.kept[number, "nature"] = bytes([look.is_simple, look.is_plain])
        if len(self._looks) > LOOKS_KEPT:
            self._looks.popitem(last=False)
        return look

    def nature(self, rank: int) -> tuple[bool, bool]:
        """Tell whether an image is simple, and whether it is plain."""
        if rank not in self._natures:
            kept = self.kept.get((int(self.ranked[rank]), "nature"))
            if kept is None:
                self[rank]
            else:
                self._natures[rank] = bool(kept[0]), bool(kept[1])
        return self._natures[rank]

    def descriptors(self) -> Iterator[Descriptors | None]:
        """Yield the corners of images and of their mirror images. None for simple ones, whose corners say nothing."""
        for rank in range(len(self.ranked)):
            yield None if self.nature(rank)[0] else self._descriptors(rank)

    def _descriptors(self, rank: int) -> Descriptors:
        number = int(self.ranked[rank])
        kept = self.kept.get((number, "corners"))
        if kept is None:
            upright, mirrored = descriptors_of(self[rank].grey)
            self.kept[number, "corners"] = len(upright).to_bytes(4) + upright.tobytes() + mirrored.tobytes()
            return upright, mirrored
        rows = np.frombuffer(kept, np.uint8, offset=4).reshape(-1, DESCRIPTOR_BYTES)
        num_upright = int.from_bytes(kept[:4])
        return rows[:num_upright], rows[num_upright:]

    def are_worth_it(self, first: int, second: int, distance: int) -> bool:
        """Check whether two codes are close enough to compare the images. Simple and plain images need closer codes."""
        if is_worth_a_look(True, True, distance):
            return True
        one, other = self.nature(first), self.nature(second)
        return is_worth_a_look(one[0] or other[0], one[1] and other[1], distance)
