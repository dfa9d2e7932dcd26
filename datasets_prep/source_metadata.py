"""What pictures bring along and what they end up being called, without an object a picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets_prep.texts import Texts
from finetune.data.listing import Entry

BETWEEN = "\0"
"""Stands in no caption."""


@dataclass(frozen=True)
class SourceMetadata:
    """What the source says of each of N pictures."""

    texts: Texts
    """[N] Captions, with BETWEEN in between."""
    special: Mapping[int, Entry]
    """The entries with a weight, repeats or a split."""

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns the captions of a picture, maybe none."""
        text = self.texts[index]
        return tuple(text.split(BETWEEN)) if text else ()

    def only(self, chosen: np.ndarray) -> "SourceMetadata":
        """Returns the same for some of the pictures, by their numbers."""
        special = {place: self.special[index] for place, index in enumerate(map(int, chosen)) if index in self.special}
        return SourceMetadata(self.texts.only(chosen), special)


def metadata_of(sources: Sequence[str], entries: Mapping[str, Entry]) -> SourceMetadata:
    """Returns what the entries say, in the order of the sources."""
    usual = (1.0, 1, None)
    special = {
        index: entries[source]
        for index, source in enumerate(sources)
        if (entries[source].weight, entries[source].repeats, entries[source].split) != usual
    }
    return SourceMetadata(Texts(BETWEEN.join(entries[source].captions) for source in sources), special)


class Captions:
    """The captions of the pictures that are kept, and where each one's first is from."""

    def __init__(
        self, indices: np.ndarray, captions: Iterable[tuple[Sequence[str], str]], *, is_complete: bool = True
    ) -> None:
        """Takes the pictures' numbers in rising order, and for each its captions and their origin.

        It is not complete where a captioner failed on some pictures.
        """
        self.indices = indices
        self.is_complete = is_complete
        self.origins: dict[str, int] = {}
        codes = np.empty(len(indices), np.uint8)

        def texts() -> Iterable[str]:
            for place, (each, origin) in enumerate(captions):
                codes[place] = self.origins.setdefault(origin, len(self.origins))
                yield BETWEEN.join(each)

        self._texts = Texts(texts())
        self._codes = codes

    def of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of a picture, the one to train on first."""
        return tuple(self._texts[self._place(index)].split(BETWEEN))

    def origin(self, index: int) -> str:
        """Returns where they are from: source, embedded, decision, file name, or the captioner."""
        return list(self.origins)[self._codes[self._place(index)]]

    def _place(self, index: int) -> int:
        place = int(np.searchsorted(self.indices, index))
        assert self.indices[place] == index, index
        return place
