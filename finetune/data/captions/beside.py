"""Read the files that each belong to an image: texts and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.data.captions.found import DETECTED, FoundCaptions, note_other, note_second
from finetune.data.captions.names import CLASS_SUFFIX, JSON_SUFFIX, split_name
from finetune.data.captions.ratings import note_ratings, without_ratings
from finetune.data.captions.reading import CaptionReading, Read, UnreadableTextError, read_text, usable_texts
from finetune.data.captions.tables import NotUnderstood, caption_values, is_rated, parsed_json
from finetune.data.captions.telling import has_boxes, why_no_text
from finetune.data.captions.text import TIMES, caption_text, in_fence, is_written_list
from finetune.data.listing import Findings

JSON_STARTS = ("{", "[", '"')
RTF_START = "{\\rtf"


def read_beside(
    read: Read, beside: Mapping[str, list[str]], reading: CaptionReading, findings: Findings, found: FoundCaptions
) -> None:
    """Read the files that each belong to an image, texts before JSON."""
    from_text: set[str] = set()
    for name, owners in beside.items():
        if split_name(name)[1] == JSON_SUFFIX:
            texts = _json_texts(read, name, owners, reading, findings, found)
        else:
            texts = _texts(read, name, owners, reading, findings, found)
            from_text.update(owners if texts else ())
        if texts is None:
            continue
        found.used.add(name)
        if len(owners) > 1:
            findings.warn("text files that give several images of the same name their captions", name)
        for owner in owners:
            if split_name(name)[1] == JSON_SUFFIX and owner in from_text:
                note_other(texts, owner, name, found, findings)
            else:
                note_second(texts, owner, name, found, findings)
                found.captions.setdefault(owner, []).extend(texts)


def _texts(
    read: Read, name: str, owners: Sequence[str], reading: CaptionReading, findings: Findings, found: FoundCaptions
) -> list[str]:
    try:
        text = read_text(read, name, findings)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), owners
        return []
    if "\0" in text:
        found.unusable[name] = "it contains NUL characters", owners
        return []
    if text.startswith(RTF_START):
        found.unusable[name] = "it is rich text (RTF); save it as plain text", owners
        return []
    body = in_fence(text)
    if body.startswith(JSON_STARTS):
        try:
            values = caption_values(parsed_json(body), reading) or []
        except NotUnderstood as error:
            found.puzzling[name] = str(error), owners
            return []
        except ValueError:  # a prompt such as {red|blue} cat
            values = None
        if values is not None and (why := why_no_text(values)):
            found.puzzling[name] = why, owners
            return []
        if values is not None:
            outcome = (
                "of which the captions are used" if values else "in which no caption is known, and which are not used"
            )
            findings.warn(f"text files that contain JSON, {outcome}", name)
            return without_ratings(usable_texts(values, name, findings), name, reading, findings)
    content = caption_text(text)
    if TIMES.search(text) or any(map(is_written_list, content.lines)):
        why = "it has the times of subtitles" if TIMES.search(text) else "it is a list or an object written as text"
        found.puzzling[name] = why, owners
        return []
    content = replace(content, lines=tuple(without_ratings(content.lines, name, reading, findings)))
    if split_name(name)[1] == CLASS_SUFFIX and all(line.isdecimal() for line in content.lines):
        findings.warn("numbers of classes, which are not captions", name)
        return []
    if content.is_boxes:
        findings.warn(DETECTED, name)
    if content.has_wordless:
        findings.warn("caption files with lines that have no word, such as ., or nan, which are not used", name)
    if content.has_parameters:
        findings.warn("caption files with an image generator's parameters, of which the prompt alone is used", name)
    if reading.lines is None and content.looks_wrapped and len(content.lines) > 1:
        findings.error(
            f"caption files whose lines seem to be paragraphs or one sentence; say what they are with "
            f"--{reading.lines_option} joined (one caption), first (the first line alone) or alternatives (each line)",
            name,
        )
    elif reading.lines is None and len(content.lines) > 1:
        findings.warn(
            f"caption files with several lines, each of which is a separate caption; set --{reading.lines_option} to "
            "alternatives to keep that, to joined or to first",
            name,
        )
    return content.captions(reading.lines)


def _json_texts(
    read: Read, name: str, owners: Sequence[str], reading: CaptionReading, findings: Findings, found: FoundCaptions
) -> list[str] | None:
    """Return the captions of a .json beside an image, or None."""
    try:
        text = read_text(read, name, findings)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), owners
        return []
    try:
        content = parsed_json(text)
        values = caption_values(content, reading)
    except NotUnderstood as error:
        found.puzzling[name] = str(error), owners
        return None
    except ValueError:
        return None
    if values is not None and (why := why_no_text(values)):
        found.puzzling[name] = why, owners
        return None
    if values is None:
        if has_boxes(text):
            findings.warn(DETECTED, name)
        return None
    texts = without_ratings(usable_texts(values, name, findings), name, reading, findings)
    if values and is_rated(content) and not reading.keeps_rating:
        note_ratings(name, reading, findings)
    return texts
