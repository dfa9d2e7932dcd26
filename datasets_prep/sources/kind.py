"""The interface of a kind of source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets_prep.records import PrepSource
from finetune.data.captions.reading import CaptionReading


@dataclass(frozen=True)
class Given:
    """Sources of one kind, and the options for reading them."""

    paths: tuple[str, ...]
    """Each once; a home folder is written out."""
    name: str
    reading: CaptionReading
    image_column: str
    output: Path
    follow_links: bool


@dataclass(frozen=True)
class SourceKind:
    """One kind of source."""

    name: str
    """Plural, for messages."""
    matches: Callable[[str], bool]
    """True for a path or id of this kind. The kinds before it in `SOURCES` did not match."""
    open: Callable[[Given], PrepSource]
    """Open sources of this kind, which may be several; ValueError where they cannot be read."""
