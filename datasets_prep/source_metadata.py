"""Captions and metadata of images, without an object per image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets_prep.texts import Texts
from finetune.data.listing import Entry

BETWEEN = "\0"
"""Separator; no caption contains it."""

MADE = -1
"""In place of the image that a caption came from, where there was none."""


@dataclass(frozen=True)
class SourceMetadata:
    """The source's metadata of N images."""

    texts: Texts  # [N] captions, joined by BETWEEN
    special: Mapping[int, Entry]
    """The entries with a weight, repeats or a split."""

    def captions(self, index: int) -> tuple[str, ...]:
        text = self.texts[index]
        return tuple(text.split(BETWEEN)) if text else ()

    def only(self, chosen: np.ndarray) -> "SourceMetadata":
        special = {place: self.special[index] for place, index in enumerate(map(int, chosen)) if index in self.special}
        return SourceMetadata(self.texts.only(chosen), special)


def metadata_of(sources: Sequence[str], entries: Mapping[str, Entry]) -> SourceMetadata:
    """Collect the metadata of the entries in the order of sources."""
    special = {
        index: entry
        for index, entry in enumerate(entries[source] for source in sources)
        if (entry.weight, entry.repeats, entry.split) != (1.0, 1, None)
    }
    return SourceMetadata(Texts(BETWEEN.join(entries[source].captions) for source in sources), special)


@dataclass(frozen=True)
class Captioned:
    """The final captions of an image that is kept."""

    texts: Sequence[str]
    origin: str
    """Origin of the first caption."""
    brought_by: tuple[int, ...] = ()
    """The image that each text came from, MADE for none; empty where all are its own."""


class Captions:
    """Captions of the kept images, with the origin of the first."""

    def __init__(self, indices: np.ndarray, captions: Iterable[Captioned], *, is_complete: bool = True) -> None:
        """Read captions of images, whose indices rise. It is not complete where a captioner failed on some images."""
        self.indices = indices
        self.is_complete = is_complete
        self.origins: dict[str, int] = {}
        codes = np.empty(len(indices), np.uint8)
        self._brought_by: dict[int, tuple[int, ...]] = {}

        def texts() -> Iterable[str]:
            for place, each in enumerate(captions):
                codes[place] = self.origins.setdefault(each.origin, len(self.origins))
                if each.brought_by:
                    self._brought_by[int(indices[place])] = each.brought_by
                yield BETWEEN.join(each.texts)

        self._texts = Texts(texts())
        self._codes = codes

    def of(self, index: int) -> tuple[str, ...]:
        """Captions of an image, the one to train on first."""
        return tuple(self._texts[self._place(index)].split(BETWEEN))

    def origin(self, index: int) -> str:
        """Origin of the first caption: source, embedded, decision, file name or captioner."""
        return list(self.origins)[self._codes[self._place(index)]]

    def brought_by(self, index: int) -> tuple[int, ...]:
        """The image that each caption came from, as in `Captioned`."""
        return self._brought_by.get(index, ())

    def _place(self, index: int) -> int:
        place = int(np.searchsorted(self.indices, index))
        assert self.indices[place] == index, index
        return place
