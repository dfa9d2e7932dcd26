"""The options of a preparation."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PrepConfig:
    """Turn a folder of pictures into a data set that every recipe reads.

    Every picture is decoded as a whole. Files that are no usable picture, or repeat another byte for byte, are left
    out, each with its reason in OUTPUT/rejected.jsonl; all others stand in OUTPUT/metadata.jsonl with a caption. Hidden
    files and the files that hold captions are in neither. The source is never written to. Not part of this version:
    near duplicates, picture quality, captions by a model, report.html, and sources other than a folder.
    """

    source: Path
    """Folder of pictures; captions may stand in .txt or .caption files beside them or in its metadata.jsonl."""
    output: Path
    """Folder to write. It appears whole or not at all, and one that this command did not write is never replaced."""
    trigger: str | None = None
    """Words that call up what is trained, e.g. "ink style"; put behind every caption that does not hold them yet."""
    caption_column: str = "text"
    """Column of the captions in the source's metadata.jsonl or metadata.csv."""
    min_side: int = 64
    """Pictures with a side of fewer pixels are left out."""

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side: got {self.min_side}, expected 1 or more pixels.")
