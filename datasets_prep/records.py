"""Records passed between stages: files, measurements, duplicates, rejections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from finetune.data.listing import Entry, Findings

Reason = Literal[
    "empty_file", "not_an_image", "unsupported_format", "truncated", "decode_error", "too_many_pixels", "too_large",
    "too_small", "bad_aspect", "low_information", "flagged", "unreadable", "not_a_file", "timeout", "worker_crashed",
    "out_of_memory", "exact_duplicate", "pixel_duplicate", "near_duplicate", "low_score", "dropped_by_user",
    "unused_mask",
]  # fmt: skip
Why = tuple[Reason, str, float | None]
"""A reason, its detail, and the score behind it, if any."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file, row or tar member of the source, with its stamp."""

    source: str
    """Its name: the POSIX path relative to the source; undecodable bytes as surrogate escapes."""
    stamp: tuple[int, ...]
    """Size and times, or whatever else changes when the content does."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected file; the fields are the columns of rejected.jsonl."""

    source: str
    reason: Reason
    detail: str
    duplicate_of: str | None = None
    """The `source` of the image that is kept."""
    score: float | None = None
    sha256: str | None = None
    """Of the file's bytes in hex, where it was read as an image; decisions in review refer to it."""


@dataclass(frozen=True)
class Listing:
    """The files of a source."""

    items: Sequence[Item]
    """Every file, caption files included, sorted by the bytes of the names, each name once."""
    rejected: Sequence[Rejected]
    """Entries that cannot be read at all: pipes, broken links, folders without permission."""


class PrepSource(Protocol):
    """A source of images, which is never written to. It can be pickled, because other processes read from it."""

    @property
    def name(self) -> str:
        """A short name, e.g. the folder's."""
        ...

    def listing(self, findings: Findings) -> Listing:
        """List the files; note what is skipped."""
        ...

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        """Read one entry per file that has no captions for others. Its captions may be empty."""
        ...

    def read(self, source: str) -> bytes:
        """Read the original bytes. Raises OSError or ValueError if there are none."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a file that decodes."""

    source: str
    sha256: bytes
    """Of the file's bytes, 32 bytes."""
    pixels_sha256: bytes
    """Of the thumbnail and the size, 32 bytes: equal for equal pixels, and almost never otherwise."""
    num_bytes: int
    width: int
    """Of the upright image, like height."""
    height: int
    suffix: str
    """By its content, with the dot."""
    codes: np.ndarray  # [12 4] uint64, see finetune.similarity.codes
    scores: Mapping[str, float]
    """By the names in datasets_prep.measure.image.SCORES."""
    notes: tuple[str, ...]
    """Things to tell the user, e.g. that it is animated or has transparency."""
    caption: str | None
    """The caption inside the file (EXIF, XMP, PNG text)."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image that repeats another."""

    keeper: int
    """Index of the image it repeats, which is not a duplicate itself."""
    reason: Literal["exact_duplicate", "pixel_duplicate", "near_duplicate"]
    score: float
    """How well they agree, 1 for the same pixels."""
    detail: str
    """e.g. "mirrored, 12 of 256 bits differ"."""
    compared_with: int | None = None
    """Index of the image that score and detail are about, where it is not the keeper but another of its group."""


@dataclass(frozen=True)
class Prepared:
    """The result of a preparation, as the report shows it."""

    name: str
    kept: Sequence[Mapping[str, object]]
    """The lines of metadata.jsonl."""
    rejected: Sequence[Mapping[str, object]]
    """The lines of rejected.jsonl."""
    figures: Sequence[tuple[str, int, int, str]]
    """(stage, images in, images out, what happened in words), in order."""
    notices: Sequence[str] = ()
    """The notes that were printed."""
    lint: Sequence["LintMark"] = ()
    buckets: Sequence["BucketRow"] = ()
    options: str = ""
    """The options as YAML."""


@dataclass(frozen=True, slots=True)
class LintMark:
    """A problem of captions that a user may want to mend."""

    kind: str
    """e.g. "longer than 75 tokens"."""
    detail: str
    """e.g. the phrase that is repeated."""
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BucketRow:
    """One training size and how it crops its images."""

    width: int
    height: int
    num_pictures: int
    crop_loss_mean: float
    num_upscaled: int
    examples: tuple[str, ...] = ()
    """A few `source`s."""
