"""A shard's images as the index lists them."""

from dataclasses import dataclass
from typing import Literal

from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Entry


@dataclass(frozen=True)
class ShardReading:
    """The options that decide what the images of a shard are."""

    image_column: str
    captions: Literal["listed", "none"]
    reading: CaptionReading


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image with its properties, and where its bytes are."""

    entry: Entry
    width: int
    height: int
    sha256: str
    start: int | None = None
    """First byte in the shard; None where a row group of a table has to be decoded."""
    length: int = 0
    group: int = 0
    """Row group of a table."""
    row: int = 0
    """Row in its row group."""
