"""Captions in JSON and CSV, as galleries, taggers and other trainers write them; torch-free."""

import csv
import io
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.data.captions.text import in_lines

NAME_FIELDS = (
    "file_name", "filename", "file", "image", "image_path", "path", "image_name", "image_file", "file_path", "filepath",
    "img", "name",
)  # fmt: skip
TEXT_FIELDS = ("caption", "text", "captions")
TAG_FIELDS = ("tags", "tag_string")
TRAINER_FIELDS = frozenset(("caption", "tags", "train_resolution"))
"""What sd-scripts' metadata holds of an image, whose tags follow its caption there."""
TELLING_FIELD = re.compile(
    r"caption|text|prompt|tag|desc|title|label|keyword|comment|content|alt|conversation|sentence|response|answer",
    re.IGNORECASE,
)
TELLING_NAME = re.compile(r"caption|prompt|tags?\b|label|annotation|meta", re.IGNORECASE)
SHORTEST_TAG_WITH_SPACES = 4
"""Shorter ones, such as ^_^, are faces."""
DEPTH = 6
"""Of nested objects that are looked into."""


class NotUnderstood(ValueError):
    """A file that seems to hold captions but not in a form that is read; its text says why."""


@dataclass(frozen=True)
class Row:
    """What a table says of an image."""

    name: str
    """As it is written there: a path, a file name, or one without its ending."""
    values: tuple[object, ...]
    """The contents of the columns with captions; maybe none."""


def parsed_json(text: str) -> Any:
    """Returns what a JSON file holds; ValueError where it is none, `NotUnderstood` where captions were meant."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if any(f'"{field}"' in text for field in (*TEXT_FIELDS, *TAG_FIELDS, "prompt")):
            raise NotUnderstood(f"not JSON: {str(error) or type(error).__name__}") from error
        raise ValueError("not JSON") from error


def caption_values(value: object, column: str) -> list[object] | None:
    """Returns the texts of an object that JSON holds of one image, None where it has none of the known fields.

    They are `column`, caption, text and captions, each caption of its own, then the tags as one, and a prompt where
    there is nothing else to read. Raises `NotUnderstood` where captions seem to be in another field.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        raise NotUnderstood("it is a list of texts, which may be captions or the tags of one")
    if not isinstance(value, Mapping):
        return None
    fields = [field for field in dict.fromkeys((column, *TEXT_FIELDS)) if field in value and field not in TAG_FIELDS]
    found: list[object] = [value[field] for field in fields]
    tags = next((value[field] for field in (column, *TAG_FIELDS) if field in TAG_FIELDS and field in value), None)
    if tags is not None:
        found.append(tags_text(tags))
    if not found and isinstance(value.get("prompt"), str):
        found.append(value["prompt"])
    if found:
        return [joined_tags(value)] if "tags" in value and TRAINER_FIELDS.issuperset(value) else found
    hidden = sorted(set(telling_fields(value)))
    if hidden:
        raise NotUnderstood(f"it has {', '.join(hidden[:5])}, but not {', '.join(TEXT_FIELDS)} or {TAG_FIELDS[0]}")
    return None


def joined_tags(value: Mapping[str, object]) -> object:
    """Returns caption and tags as sd-scripts trains on them, one behind the other."""
    parts = [value.get("caption"), tags_text(value.get("tags"))]
    return ", ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def tags_text(tags: object) -> object:
    """Returns tags as one caption: a list, lists by category, or a text with spaces between words like long_hair."""
    if isinstance(tags, list | Mapping):
        return ", ".join(dict.fromkeys(spaced(tag) for tag in texts_within(tags) if tag.strip()))
    if isinstance(tags, str) and "," not in tags and "_" in tags:
        return ", ".join(spaced(tag) for tag in tags.split())
    return tags


def spaced(tag: str) -> str:
    """Returns a tag with spaces for its underscores."""
    tag = tag.strip()
    return tag if len(tag) < SHORTEST_TAG_WITH_SPACES else tag.replace("_", " ")


def texts_within(value: object, depth: int = 0) -> Iterator[str]:
    """Yields the texts in nested lists and objects, e.g. tags by category or by tag service."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping) and depth < DEPTH:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_within(item, depth + 1)


def telling_fields(value: object, depth: int = 0) -> Iterator[str]:
    """Yields the names of fields, also nested ones, that seem to hold captions: by their names, and words in them."""
    if isinstance(value, Mapping) and depth < DEPTH:
        for field, content in value.items():
            if TELLING_FIELD.search(str(field)) and any(is_wordy(text) for text in texts_within(content)):
                yield str(field)
            else:
                yield from telling_fields(content, depth + 1)
    elif isinstance(value, list) and depth < DEPTH:
        for item in value[:20]:
            yield from telling_fields(item, depth + 1)


def is_wordy(text: object) -> bool:
    """True for a text of two words or more, rather than a name, a number or a date."""
    return isinstance(text, str) and len(re.findall(r"[^\W\d_]{2,}", text)) > 1


def json_rows(value: object, column: str) -> list[Row]:
    """Returns the images that a JSON value lists: name -> caption or object, a list of objects, or COCO's form."""
    if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):
        value = list(_coco_objects(value))
    if isinstance(value, Mapping):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], Mapping)]
        if len(lists) == 1:
            value = lists[0]
    if isinstance(value, Mapping):
        return [
            Row(name, tuple(item if isinstance(item, list) else caption_values(item, column) or ()))
            for name, item in value.items()
            if isinstance(item, str | Mapping | list)
        ]
    return object_rows(value if isinstance(value, list) else (), column)


def _coco_objects(value: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    images = [image for image in value.get("images") or () if isinstance(image, Mapping)]
    names = {image.get("id"): image.get("file_name") for image in images}
    for annotation in value["annotations"]:
        if isinstance(annotation, Mapping) and annotation.get("image_id") in names:
            yield {"file_name": names[annotation["image_id"]], "caption": annotation.get("caption")}


def object_rows(objects: Iterable[object], column: str) -> list[Row]:
    """Returns the images of objects that each name a file and hold captions."""
    rows = []
    for item in objects:
        if isinstance(item, Mapping):
            field = next((field for field in NAME_FIELDS if isinstance(item.get(field), str)), None)
            if field is not None:
                rest = {key: value for key, value in item.items() if key != field}
                rows.append(Row(str(item[field]), tuple(caption_values(rest, column) or ())))
    return rows


def json_lines_rows(text: str, column: str) -> list[Row]:
    """Returns the images that the lines of a .jsonl list."""
    return object_rows((parsed_json(line) for line in in_lines(text) if line.strip()), column)


def csv_rows(text: str, column: str, images: Container[str]) -> list[Row]:
    """Returns the images that a table lists whose columns are parted by commas, semicolons, tabs or bars.

    `images` has the file names that there are: a first line that begins with one is no heading, and the second column
    then holds the captions.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
    try:
        lines = [line for line in reader if any(line)]
    except csv.Error as error:
        raise NotUnderstood(f"not CSV: {error}") from error
    if not lines:
        return []
    if len(lines[0]) > 1 and lines[0][0].strip() in images:
        return [Row(line[0].strip(), tuple(line[1:2])) for line in lines]
    fields = [known_field(field.strip()) for field in lines[0]]
    if not set(fields) & set(NAME_FIELDS) and any(TELLING_FIELD.search(field) for field in fields):
        raise NotUnderstood(f"it has the columns {', '.join(fields[:5])}, of which none is {NAME_FIELDS[0]}")
    return object_rows((dict(zip(fields, line, strict=False)) for line in lines[1:]), column)


def known_field(field: str) -> str:
    """Returns a column's name as it is known, where it differs in capitals alone: Image is image."""
    return field.lower() if field.lower() in (*NAME_FIELDS, *TEXT_FIELDS, *TAG_FIELDS) else field


def named_lines(text: str, images: Container[str]) -> list[Row]:
    """Returns the images of lines such as "x.png: a cat"; none unless every line begins with one of the `images`."""
    rows = []
    for line in in_lines(text):
        match = re.fullmatch(r"\s*(.+?\.\w+)(?:\s*[:|=]\s*|\s+)(\S.*)", line)
        if line.strip() and (match is None or match[1] not in images):
            return []
        rows += [Row(match[1], (match[2].strip(),))] if match is not None else []
    return rows


def delimiter_of(text: str) -> str:
    """Returns what separates the columns of a table: the comma, semicolon, tab or bar that its first line has most."""
    head = next((line for line in in_lines(text) if line.strip()), "")
    return max((",", ";", "\t", "|"), key=head.count)
