"""Captions in JSON and CSV of galleries, taggers and other trainers. Torch-free."""

import csv
import io
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from finetune.data.captions.columns import PROMPTS
from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.telling import TELLING_FIELD, telling_fields, texts_within
from finetune.data.captions.text import in_lines
from finetune.json_text import parse_json

NAME_FIELDS = (
    "file_name", "filename", "file", "image", "image_path", "path", "image_name", "image_file", "file_path", "filepath",
    "img", "name",
)  # fmt: skip
TEXT_FIELDS = ("caption", "text", "captions")
SPACED_TAGS = "tag_string"
"""Tags with spaces between them and none in them."""
TAG_FIELDS = ("tags", SPACED_TAGS)
RATING = "rating"
TRAINER_FIELDS = frozenset(("caption", "tags", "train_resolution"))
"""Fields of sd-scripts' metadata, where an image's tags follow its caption."""
SHORTEST_TAG_WITH_SPACES = 4
"""Shorter ones, such as ^_^, are faces."""


class NotUnderstood(ValueError):
    """A file with captions in an unknown form; its text says why."""


@dataclass(frozen=True)
class Row:
    """The name and captions of an image in a table."""

    name: str
    """As it is written there: a path, a file name, or one without its ending."""
    values: tuple[object, ...]
    """The contents of the columns with captions; maybe none."""


def parsed_json(text: str) -> object:
    """Parse a JSON file; ValueError for anything else. Raises `NotUnderstood` where it seems meant as captions."""
    try:
        return parse_json(text)
    except ValueError as error:
        if any(f'"{field}"' in text for field in (*TEXT_FIELDS, *TAG_FIELDS, "prompt")):
            raise NotUnderstood(f"not JSON: {error}") from error
        raise ValueError("not JSON") from error


def caption_values(value: object, reading: CaptionReading) -> list[object] | None:
    """Return an object's texts, None without a known field. They are the wanted column, caption, text and captions,
    each a caption by itself, then the tags as one, and a prompt where there is nothing else. Raises `NotUnderstood`
    where captions seem to be in another field."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        raise NotUnderstood("it is a list of texts, which may be captions or the tags of one")
    if isinstance(value, list) and len(value) == 1:
        return caption_values(value[0], reading)
    if isinstance(value, list) and any(caption_values(item, reading) for item in value):
        raise NotUnderstood(f"it is a list of {len(value)} objects with captions")
    if not isinstance(value, Mapping):
        return None
    column = reading.column
    fields = [field for field in dict.fromkeys((column, *TEXT_FIELDS)) if field in value and field not in TAG_FIELDS]
    found: list[object] = [value[field] for field in fields]
    field, tags = next(
        ((field, value[field]) for field in (column, *TAG_FIELDS) if field in TAG_FIELDS and field in value), ("", None)
    )
    if field == SPACED_TAGS and isinstance(tags, str) and "," not in tags:
        tags = tags.split()
    if tags is not None:
        found.append(with_rating(tags, value, reading))
    if not found:
        found += [value[field] for field in PROMPTS if isinstance(value.get(field), str)]
    if found:
        joined = joined_tags(value, reading) if "tags" in value and TRAINER_FIELDS.issuperset(value) else ""
        return [joined] if joined else found
    hidden = sorted(set(telling_fields(value)))
    if hidden:
        raise NotUnderstood(f"it has {', '.join(hidden[:5])}, but not {', '.join(TEXT_FIELDS)} or {TAG_FIELDS[0]}")
    return None


def is_rated(value: object) -> bool:
    """Tell if an object has a rating beside or among its tags."""
    tags = value.get("tags") if isinstance(value, Mapping) else None
    return isinstance(value, Mapping) and (RATING in value or (isinstance(tags, Mapping) and RATING in tags))


def with_rating(tags: object, value: Mapping[str, object], reading: CaptionReading) -> object:
    """Join tags. The object's ratings follow, as rating:explicit, where they are kept."""
    text, among = tags_text(tags), value.get("tags")
    given = [value.get(RATING), among.get(RATING) if isinstance(among, Mapping) else None]
    ratings = [f"{RATING}:{each.strip()}" for each in texts_within(given) if each.strip()]
    if not reading.keeps_rating or not isinstance(text, str) or not text.strip():
        return text
    return ", ".join(dict.fromkeys([text, *ratings]))


def joined_tags(value: Mapping[str, object], reading: CaptionReading) -> str:
    """Join caption and tags in the order that sd-scripts trains on."""
    parts = [value.get("caption"), with_rating(value.get("tags"), value, reading)]
    return ", ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def tags_text(tags: object) -> object:
    """Join tags into one caption. They are a list, lists by category, or words like long_hair in a text. A rating among
    the categories is not a tag. Other values, such as scores by tag, are returned as they are."""
    if isinstance(tags, Mapping):
        tags = services_tags(tags)
    if isinstance(tags, Mapping):
        tags = {kind: those for kind, those in tags.items() if str(kind).lower() != RATING}
    if isinstance(tags, list | Mapping) and any(texts_within(tags)):
        return ", ".join(dict.fromkeys(spaced(tag) for tag in texts_within(tags) if tag.strip()))
    if isinstance(tags, str) and "," not in tags and "_" in tags:
        return ", ".join(spaced(tag) for tag in tags.split())
    return tags


def services_tags(tags: Mapping[object, object]) -> object:
    """Return the tags of Hydrus's services; other tags unchanged. They are by service, then by status: 0 is current, 1
    pending, and deleted ones are not used. Displayed tags have their siblings and parents applied."""
    services = [each for each in tags.values() if isinstance(each, Mapping)]
    if not any("storage_tags" in each or "display_tags" in each for each in services):
        return tags
    chosen = [each.get("display_tags") or each.get("storage_tags") for each in services]
    return [each.get(status) for each in chosen if isinstance(each, Mapping) for status in ("0", "1")]


def spaced(tag: str) -> str:
    """Return a tag with spaces for its underscores."""
    tag = tag.strip()
    return tag if len(tag) < SHORTEST_TAG_WITH_SPACES else tag.replace("_", " ")


def json_rows(value: object, reading: CaptionReading) -> list[Row]:
    """Return the images in a JSON value. Forms: name -> caption or object, a list of objects, or COCO's."""
    if isinstance(value, Mapping) and isinstance(annotations := value.get("annotations"), list):
        value = list(_coco_objects(value.get("images"), annotations))
    if isinstance(value, Mapping):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], Mapping)]
        if len(lists) == 1:
            value = lists[0]
    if isinstance(value, Mapping) and (objects := _objects_of_columns(value)):
        return object_rows(objects, reading)
    if isinstance(value, Mapping):
        return [
            Row(name, tuple(item if isinstance(item, list) else caption_values(item, reading) or ()))
            for name, item in value.items()
            if isinstance(item, str | Mapping | list)
        ]
    return object_rows(value if isinstance(value, list) else (), reading)


def _objects_of_columns(value: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the rows of a table by columns. Each is a list or, as pandas writes it, an object by row."""
    columns = {
        name: dict(enumerate(column)) if isinstance(column, list) else column
        for name, column in value.items()
        if isinstance(column, list | Mapping)
    }
    names = next((columns[field] for field in NAME_FIELDS if field in columns), {})
    is_whole = all(column.keys() == names.keys() for column in columns.values())
    if len(columns) < 2 or not is_whole or not all(isinstance(each, str) for each in names.values()):
        return []
    return [{name: column[row] for name, column in columns.items()} for row in names]


def _coco_objects(images: object, annotations: list[object]) -> Iterator[dict[str, object]]:
    listed = [image for image in images if isinstance(image, Mapping)] if isinstance(images, list) else []
    names = {image.get("id"): image.get("file_name") for image in listed}
    for annotation in annotations:
        if isinstance(annotation, Mapping) and annotation.get("image_id") in names:
            caption = {"caption": annotation["caption"]} if "caption" in annotation else {}
            yield {"file_name": names[annotation["image_id"]], **caption}


def object_rows(objects: Iterable[object], reading: CaptionReading) -> list[Row]:
    """Return the images of objects with a file name and captions."""
    rows = []
    for item in objects:
        if isinstance(item, Mapping):
            field = next((field for field in NAME_FIELDS if isinstance(item.get(field), str)), None)
            if field is not None:
                rest = {key: value for key, value in item.items() if key != field}
                rows.append(Row(str(item[field]), tuple(caption_values(rest, reading) or ())))
    return rows


def json_lines_rows(text: str, reading: CaptionReading) -> list[Row]:
    """Return the images that the lines of a .jsonl list."""
    return object_rows((parsed_json(line) for line in in_lines(text) if line.strip()), reading)


def csv_rows(text: str, reading: CaptionReading, images: Container[str]) -> list[Row]:
    """Return the images of a table with commas, semicolons, tabs or bars. `images` are the existing file names: a first
    line that begins with one is not a heading, and the second column then has the captions."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
    try:
        lines = [line for line in reader if any(line)]
    except csv.Error as error:
        raise NotUnderstood(f"not CSV: {error}") from error
    if not lines:
        return []
    if len(lines[0]) > 1 and lines[0][0].strip() in images:
        whole = [whole_line(line, 2, text) for line in lines]
        return [Row(line[0].strip(), tuple(line[1:2])) for line in whole]
    fields = [known_field(field.strip()) for field in lines[0]]
    if not set(fields) & set(NAME_FIELDS) and any(TELLING_FIELD.search(field) for field in fields):
        raise NotUnderstood(f"it has the columns {', '.join(fields[:5])}, of which none is {NAME_FIELDS[0]}")
    whole = [whole_line(line, len(fields), text) for line in lines[1:]]
    return object_rows((dict(zip(fields, line, strict=False)) for line in whole), reading)


def whole_line(line: list[str], num: int, text: str) -> list[str]:
    """Return `num` values of a line. Commas of the last are put back. Raises `NotUnderstood` for other longer lines."""
    if len(line) <= num or not any(line[num:]):
        return line[:num]
    if delimiter_of(text) != "," or '"' in text or num < 2:
        raise NotUnderstood(
            f"the line of {line[0]} has {len(line)} values, expected {num}; put quotes around texts with commas"
        )
    return [*line[: num - 1], ",".join(line[num - 1 :])]


def known_field(field: str) -> str:
    """Return the known spelling of a column's name: Image is image."""
    return field.lower() if field.lower() in (*NAME_FIELDS, *TEXT_FIELDS, *TAG_FIELDS) else field


def named_lines(text: str, images: Container[str]) -> list[Row]:
    """Return the images of lines such as "x.png: cat" and "x.png#0 cat". Each line has to begin with a name."""
    rows = []
    for line in in_lines(text):
        match = re.fullmatch(r"\s*(.+?\.\w+)(?:#\d+)?(?:\s*[:|=]\s*|\s+)(\S.*)", line)
        if line.strip() and (match is None or match[1] not in images):
            return []
        rows += [Row(match[1], (match[2].strip(),))] if match is not None else []
    return rows


def delimiter_of(text: str) -> str:
    """Return the first line's separator: comma, semicolon, tab or bar."""
    head = next((line for line in in_lines(text) if line.strip()), "")
    return max((",", ";", "\t", "|"), key=head.count)
