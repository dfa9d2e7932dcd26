"""Read the files that list several images."""

import posixpath
from collections.abc import Sequence

from finetune.data.captions.found import DETECTED, FoundCaptions, note_other
from finetune.data.captions.names import JSON_SUFFIX, TEXT_SUFFIXES, ImageNames, split_name
from finetune.data.captions.ratings import without_ratings
from finetune.data.captions.reading import CaptionReading, Read, UnreadableTextError, read_text, usable_texts
from finetune.data.captions.tables import (
    TAG_FIELDS,
    TEXT_FIELDS,
    Row,
    csv_rows,
    json_lines_rows,
    json_rows,
    named_lines,
    parsed_json,
)
from finetune.data.captions.telling import CAPTIONS_NAME, TELLING_NAME, has_boxes, why_no_text
from finetune.data.captions.text import has_words
from finetune.data.listing import Findings

LARGEST_TABLE = 200_000_000
"""Characters; larger files are not looked into for a list of images."""


def read_table(
    read: Read, name: str, images: ImageNames, reading: CaptionReading, findings: Findings, found: FoundCaptions
) -> None:
    """Read a list of several images. A file about something else passes."""
    own = Findings()  # dropped if the file turns out to be about something else
    try:
        text = read_text(read, name, own)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), ()
        return
    if len(text) > LARGEST_TABLE:
        return
    try:
        rows = _rows(text, split_name(name)[1], reading, images)
    except ValueError as error:
        if TELLING_NAME.search(posixpath.basename(name)) or _mentions(text, images) or images.beside(name):
            found.puzzling[name] = str(error), ()
        return
    if not rows and split_name(name)[1] in TEXT_SUFFIXES:
        rows = named_lines(text, images)
        if not rows and TELLING_NAME.search(split_name(posixpath.basename(name))[0]) and has_words(text):
            found.puzzling[name] = "its lines name no images", ()
    folder = posixpath.dirname(name)
    matches = [(row, images.listed(row.name, folder)) for row in rows]
    if not any(owners for _, owners in matches):
        if rows and split_name(name)[1] != ".txt" and TELLING_NAME.search(posixpath.basename(name)):
            found.puzzling[name] = f"it names no image that there is, e.g. {rows[0].name}", ()
        return
    if not any(row.values for row, _ in matches):
        if CAPTIONS_NAME.search(posixpath.basename(name)) and split_name(name)[1] != ".txt":
            found.puzzling[name] = f"it has none of the fields {', '.join(TEXT_FIELDS)} and {TAG_FIELDS[0]}", ()
        if has_boxes(text):
            findings.warn(DETECTED, name)
        return
    found.used.add(name)
    if own.warnings:
        read_text(read, name, findings)
    _take_rows(matches, name, reading, findings, found)


def _rows(text: str, suffix: str, reading: CaptionReading, images: ImageNames) -> list[Row]:
    if suffix == JSON_SUFFIX:
        return json_rows(parsed_json(text), reading)
    return json_lines_rows(text, reading) if suffix == ".jsonl" else csv_rows(text, reading, images)


def _mentions(text: str, images: ImageNames) -> bool:
    words = text.replace('"', " ").replace(",", " ").replace(";", " ").replace("|", " ").split()[:10_000]
    return any(word in images or ("." in word and images.called(posixpath.basename(word))) for word in words)


def _take_rows(
    matches: Sequence[tuple[Row, list[str]]],
    name: str,
    reading: CaptionReading,
    findings: Findings,
    found: FoundCaptions,
) -> None:
    earlier = {owner for owner, texts in found.captions.items() if texts}
    without: dict[str, list[str]] = {}
    for row, owners in matches:
        where = f"{name}: {row.name}"
        texts = without_ratings(usable_texts(row.values, where, findings), where, reading, findings)
        if why := why_no_text(row.values):
            without.setdefault(f"{row.name}: {why}", []).extend(owners)
        if not owners:
            findings.warn("images that a listing mentions but that are not there", f"{name}: {row.name}")
        elif len({split_name(owner)[0] for owner in owners}) > 1:
            findings.error(
                "names in a listing that several images have; give them with their folders", f"{name}: {row.name}"
            )
        for owner in owners:
            if owner in earlier:
                note_other(texts, owner, f"{name}: {row.name}", found, findings)
            else:
                found.captions.setdefault(owner, []).extend(texts)
    if any(without.values()):
        found.puzzling[name] = next(iter(without)), [owner for owners in without.values() for owner in owners]
