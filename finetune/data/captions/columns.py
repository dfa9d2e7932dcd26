"""Choose a table's column with the captions; torch-free."""

from collections.abc import Collection, Iterable

from finetune.data.captions.telling import CERTAIN_FIELD
from finetune.data.listing import Findings

USUAL = ("caption", "captions")
PROMPTS = ("prompt", "text_prompt")
BESIDE = ("captions_alt", "caption_source", "caption_sources")
"""Columns of preparation beside its captions."""
DETECTED = ("objects", "annotations", "bbox", "bboxes")
"""Columns of an object detector, as `datasets` names them."""


def caption_column_of(there: Collection[str], wanted: str) -> str:
    """Choose the column with the captions. Where the usual text is missing, it is caption or captions, or a prompt if
    no other column seems to have captions."""
    if wanted != "text" or "text" in there:
        return wanted
    found = next((column for column in USUAL if column in there), None)
    likely = likely_columns(there)
    return found or (likely[0] if len(likely) == 1 and likely[0] in PROMPTS else wanted)


def likely_columns(names: Iterable[str]) -> list[str]:
    """Return the columns whose names speak of captions. Negative prompts do not."""
    return [name for name in names if CERTAIN_FIELD.search(name) and "negative" not in name and name not in BESIDE]


def chosen_column(there: Collection[str], wanted: str, place: str, findings: Findings) -> str:
    """Choose the column with the captions. One that is not the usual one is noted once."""
    column = caption_column_of(there, wanted)
    if column != wanted:
        findings.warn(f"tables without the column {wanted}, of which another is read", f"{place} ({column})")
    return column


def missing_column(option: str, column: str, place: str, names: Iterable[str]) -> str:
    """Describe a missing column, those that are there, and what to set."""
    names = list(names)
    content = "images" if option.endswith("image_column") else "captions"
    boxes = [name for name in names if name in DETECTED and content == "captions"]
    return (
        f"{option}: {column!r} is not a column of {place}, whose columns are {', '.join(names)}. "
        f"Set {option} to the one with the {content}."
        + (f" It is not {' or '.join(boxes)}, which has what an object detector found." if boxes else "")
    )
