"""Ratings of galleries, which are not part of a caption; torch-free."""

import re
from collections.abc import Sequence

from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.text import without_gaps
from finetune.data.listing import Findings

RATING_TAG = re.compile(
    r"(?<![^\s,])rating:\s?(?:general|sensitive|questionable|explicit|safe|suggestive|mature|adult|nsfw|sfw|[gsqe])"
    r"(?![^\s,])",
    re.IGNORECASE,
)
"""A tag such as rating:safe."""


def note_ratings(name: str, reading: CaptionReading, findings: Findings) -> None:
    """Warn that a file's ratings are not used."""
    findings.warn(
        f"ratings of a gallery beside or among the tags, which are not part of the caption; --{reading.rating_option} "
        "true keeps them as tags",
        name,
    )


def without_ratings(texts: Sequence[str], name: str, reading: CaptionReading, findings: Findings) -> list[str]:
    """Remove tags such as rating:safe, with a warning, unless they are kept."""
    if reading.keeps_rating or not any(map(RATING_TAG.search, texts)):
        return list(texts)
    note_ratings(name, reading, findings)
    plain = (without_gaps(RATING_TAG.sub("", text)) if RATING_TAG.search(text) else text for text in texts)
    return [text for text in plain if text]
