"""Lines of metadata.jsonl and rejected.jsonl, made on access. A million of them need not be in memory."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.image import SCORES
from datasets_prep.records import Duplicate
from datasets_prep.source_metadata import MADE, Captions, SourceMetadata
from finetune.data.visible_files import MASK_SUFFIX

Row = Mapping[str, object]


@dataclass(frozen=True)
class LazyRows(Sequence[Row]):
    """Lines that are made on access."""

    num: int
    make: Callable[[int], Row]

    def __len__(self) -> int:
        return self.num

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return [self.make(index) for index in range(*place.indices(self.num))]
        if not -self.num <= place < self.num:
            raise IndexError(place)
        return self.make(place % self.num)


@dataclass(frozen=True)
class Kept:
    """The K of N images that are kept, and their metadata."""

    images: MeasuredImages
    indices: np.ndarray  # [K] which of the images, in the order of the lines
    captions: Captions
    metadata: SourceMetadata
    flags: Mapping[str, np.ndarray]  # [N] by name
    model_scores: Mapping[str, np.ndarray]
    """Learned scores [N] by name; NaN where there is none."""
    reported: Mapping[int, Duplicate]
    """Near duplicates that are kept and only reported."""
    sizes: Sequence[tuple[int, int]]  # [K] the training size of each
    is_held_out: np.ndarray | None  # [K] none where no split was requested
    masks: Mapping[int, int] = field(default_factory=dict)
    """Index of an image -> index of its mask, where it has one."""
    saved_as: tuple[str, str] | None = None
    """Format and background, where all images are saved again."""

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def has_split(self) -> bool:
        if self.is_held_out is not None:
            return bool(self.is_held_out.any())
        return any(self.split(place) == "validation" for place in range(len(self)))

    def rows(self, names: Callable[[int], str] | None = None) -> LazyRows:
        """Make the lines of metadata.jsonl. `names` gives file_name by place where it is not the file's own."""
        return LazyRows(len(self), lambda place: self.row(place, (names or self.file_name)(place)))

    def row(self, place: int, file_name: str) -> Row:
        index = int(self.indices[place])
        text, *others = self.captions.of(index)
        row: dict[str, object] = {"file_name": file_name, "text": text}
        row |= {"captions_alt": others} if others else {}
        row |= {"width": int(self.images.width[index]), "height": int(self.images.height[index])}
        row |= {"bucket": list(self.sizes[place]), "sha256": self.images.hex(index)}
        row |= {"source": self.images.sources[index], "caption_from": self.captions.origin(index)}
        members = self.captions.brought_by(index)
        taken = ["" if member == MADE else self.images.sources[member] for member in members]
        row |= {"caption_sources": taken} if taken else {}
        row |= {"mask": self.images.sources[self.masks[index]]} if index in self.masks else {}
        flags = [name for name, having in self.flags.items() if having[index]]
        row |= {"flags": flags} if flags else {}
        if index in self.reported:
            duplicate = self.reported[index]
            keeper, score = self.images.sources[duplicate.keeper], round(duplicate.score, 4)
            row |= {"near_duplicate_of": keeper, "near_duplicate_score": score}
        entry = self.metadata.special.get(index)
        if entry is not None:
            row |= {"weight": entry.weight} if entry.weight != 1 else {}
            row |= {"repeats": entry.repeats} if entry.repeats != 1 else {}
        split = self.split(place)
        row |= {} if split is None else {"split": split}
        scores = dict(zip(SCORES, (round(value, 4) for value in self.images.scores[index].tolist()), strict=True))
        model_scores = {name: float(column[index]) for name, column in self.model_scores.items()}
        scores |= {name: round(score, 5) for name, score in model_scores.items() if not np.isnan(score)}
        return row | {"scores": scores}

    def file_name(self, place: int) -> str:
        """Return the path of an image in the result. It is the hash of its content: names never collide or contain a
        word like "test", which load_dataset takes for a split. With two splits the folder names the split, as
        load_dataset expects."""
        folder = "images"
        if self.has_split:
            folder = "validation" if self.split(place) == "validation" else "train"
        return f"{folder}/{self.stored_name(place)}"

    def stored_name(self, place: int) -> str:
        index = int(self.indices[place])
        digest = self.images.hex(index)
        if self.saved_as is None:
            return digest[:32] + self.images.suffixes[int(self.images.suffix[index])]
        name = " ".join([digest, *self.saved_as])
        return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.{self.saved_as[0]}"

    def mask_rows(self) -> LazyRows:
        """Make rows with path, source and sha256 of the masks. Masks are beside their images, with related names."""
        places = [place for place, index in enumerate(map(int, self.indices)) if index in self.masks]

        def row(number: int) -> Row:
            mask = self.masks[int(self.indices[places[number]])]
            stem = self.file_name(places[number]).rpartition(".")[0]
            suffix = self.images.suffixes[int(self.images.suffix[mask])]
            name = f"{stem}{MASK_SUFFIX}{suffix}"
            return {"file_name": name, "source": self.images.sources[mask], "sha256": self.images.hex(mask)}

        return LazyRows(len(places), row)

    def split(self, place: int) -> str | None:
        """Return the split of an image. None where the source names none and no split was requested."""
        entry = self.metadata.special.get(int(self.indices[place]))
        if entry is not None and entry.split is not None:
            return entry.split
        if self.is_held_out is None:
            return None
        return "validation" if self.is_held_out[place] else "train"
