"""The lines of metadata.jsonl, made from columns one at a time: a million of them need not be in memory."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from datasets_prep.measure import SCORES
from datasets_prep.records import Copy
from datasets_prep.store import Pictures
from finetune.data.entries import Entry


@dataclass(frozen=True)
class Captions:
    """What a picture is called, and who says so."""

    texts: tuple[str, ...]
    """The first is the one in `text`, the others stand in `captions_alt`."""
    origin: str
    """source, embedded, decision, or the captioner's name."""


@dataclass(frozen=True)
class KeptRows(Sequence[Mapping[str, object]]):
    """The lines of metadata.jsonl in their order."""

    pictures: Pictures
    indices: np.ndarray
    """[K] Which of the pictures are kept, in the order of the lines."""
    captions: Mapping[int, Captions]
    entries: Mapping[str, Entry]
    flags: Mapping[str, np.ndarray]
    """[N] by name."""
    learned: Mapping[str, np.ndarray]
    """Learned scores [N] by name; NaN where there is none."""
    reported: Mapping[int, Copy]
    """Near duplicates that are kept and only named."""
    sizes: Sequence[tuple[int, int]]
    """[K] The training size of each."""
    is_held_out: np.ndarray | None
    """[K] None where no split was asked for."""
    names: Sequence[str] | None = None
    """[K] file_name of each where that is not its own file."""
    suffix: str | None = None
    """Of all files, where they are saved anew."""

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, object]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, object]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, object] | Sequence[Mapping[str, object]]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        index = int(self.indices[place])
        source, sha256 = self.pictures.sources[index], self.pictures.hex(index)
        captions, entry = self.captions[index], self.entries.get(source)
        row: dict[str, object] = {"file_name": self.file_name(place), "text": captions.texts[0]}
        row |= {"captions_alt": list(captions.texts[1:])} if captions.texts[1:] else {}
        row |= {"width": int(self.pictures.width[index]), "height": int(self.pictures.height[index])}
        row |= {"bucket": list(self.sizes[place]), "sha256": sha256, "source": source, "caption_from": captions.origin}
        flags = [name for name, having in self.flags.items() if having[index]]
        row |= {"flags": flags} if flags else {}
        if index in self.reported:
            copy = self.reported[index]
            row |= {
                "near_duplicate_of": self.pictures.sources[copy.keeper],
                "near_duplicate_score": round(copy.score, 4),
            }
        if entry is not None:
            row |= {"weight": entry.weight} if entry.weight != 1 else {}
            row |= {"repeats": entry.repeats} if entry.repeats != 1 else {}
            row |= {"split": entry.split} if entry.split is not None else {}
        if self.is_held_out is not None:
            row |= {"split": "validation" if self.is_held_out[place] else "train"}
        scores = dict(zip(SCORES, (round(float(value), 4) for value in self.pictures.scores[index]), strict=True))
        scores |= {
            name: round(float(column[index]), 4)
            for name, column in self.learned.items()
            if column[index] == column[index]
        }
        return row | {"scores": scores}

    def file_name(self, place: int) -> str:
        """Returns the path of a picture in the result.

        It is the hash of its content: no name collides, and none holds a word like "test", which load_dataset takes for
        a split.
        """
        if self.names is not None:
            return self.names[place]
        return "images/" + self.stored_name(place)

    def stored_name(self, place: int) -> str:
        """Returns the file's name alone."""
        index = int(self.indices[place])
        suffix = self.suffix or self.pictures.table["suffix"][index].as_py()
        return self.pictures.hex(index)[:32] + suffix


def words(count: int, one: str, several: str) -> str:
    """Returns "1 picture" or "1,234 pictures"."""
    return f"{count:,} {one if count == 1 else several}"


def sort_key(source: str) -> bytes:
    """Returns what names are sorted by: their bytes."""
    return os.fsencode(source)


def relative_to_here(path: Path) -> str:
    """Returns a path as short as it can be given."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
