"""Rows of Parquet files as sources of images.

A mask in the mask column of prepared tables becomes a file of its own, named after its image.
"""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets_prep.captions.own import is_mask_name, warn_of_errors
from datasets_prep.records import Item, Listing, Rejected
from datasets_prep.sources.folder import sorted_listing
from datasets_prep.sources.scan import stamp_of
from finetune.data.captions.columns import caption_column_of, chosen_column, likely_columns, missing_column
from finetune.data.captions.names import split_name
from finetune.data.captions.reading import is_unicode, usable_texts
from finetune.data.captions.telling import texts_within
from finetune.data.captions.text import is_written_list
from finetune.data.listing import NOT_TEXT, Entry, Findings, described, read_entry
from finetune.data.parquet import MASK_COLUMN
from finetune.data.visible_files import MASK_SUFFIX
from finetune.json_text import parse_json

if TYPE_CHECKING:
    from pyarrow import DataType

EXTRA_COLUMNS = ("captions_alt", "weight", "repeats", "split")


@dataclass(frozen=True)
class ParquetTables:
    """The rows of Parquet files. A name is the file's without suffix, "/", the row's number, and the image's name."""

    files: Mapping[str, str]
    """Name without suffix -> path."""
    name: str
    image_column: str
    caption_column: str
    damaged: tuple[Rejected, ...] = ()
    """Further files, which cannot be read."""

    def listing(self, findings: Findings) -> Listing:
        from finetune.data.parquet import read_schema

        items, rejected = [], list(self.damaged)
        for stem, path in self.files.items():
            stamp = stamp_of(os.stat(path))
            own = {self.image_column, *([MASK_COLUMN] if self._has_masks(path) else [])}
            others = [each.name for each in read_schema(path) if each.name not in own and holds_images(each.type)]
            note_other_images(others, path, findings)
            masked = set(_masked_rows(path)) if self._has_masks(path) else set()
            for row, name in enumerate(self._names(stem, path)):
                if not is_unicode(name):
                    rejected.append(Rejected(name, "unreadable", "its name is not UTF-8"))
                    continue
                items.append(Item(name, (*stamp, row)))
                if row in masked:
                    items.append(Item(mask_name(name), (*stamp, row)))
        return sorted_listing(items, rejected)

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        from finetune.data.parquet import read_columns, read_schema

        wanted = set(sources)
        entries = {name: Entry(name, ()) for name in sources if is_mask_name(name)}
        for stem, path in self.files.items():
            schema = read_schema(path)
            there = captioned_columns(schema.names, self.caption_column, path, findings)
            labels = _class_labels(schema.metadata)
            names = self._names(stem, path)
            if not there:
                entries |= {name: Entry(name, ()) for name in names if name in wanted}
                continue
            for _, columns in read_columns(path, there):
                for values in zip(*columns.values(), strict=True):
                    name = next(names)
                    if name in wanted:
                        row = dict(zip(columns, values, strict=True))
                        entries[name] = row_entry(name, row, self.caption_column, stem, findings, labels)
        return {name: entries[name] for name in sources}

    def read(self, source: str) -> bytes:
        from finetune.data.parquet import read_image

        stem, row = _row_of(source, self.files)
        path = self.files[stem]
        is_mask = is_mask_name(source) and self._has_masks(path)
        return read_image(path, MASK_COLUMN if is_mask else self.image_column, row)

    def _names(self, stem: str, path: str) -> Iterator[str]:
        from finetune.data.parquet import num_rows, read_columns, read_schema

        kind = read_schema(path).field(self.image_column).type
        leaf = f"{self.image_column}.path"
        if kind.num_fields == 0 or kind.get_field_index("path") < 0:
            return (row_name(stem, row, None) for row in range(num_rows(path)))
        pieces, has_masks = read_columns(path, [leaf]), self._has_masks(path)
        return (
            row_name(stem, row, _own_name(value, has_masks=has_masks))
            for first, columns in pieces
            for row, value in enumerate(columns[self.image_column], first)
        )

    def _has_masks(self, path: str) -> bool:
        return self.image_column != MASK_COLUMN and _has_mask_column(path, stamp_of(os.stat(path)))


@functools.lru_cache(maxsize=1024)
def _has_mask_column(path: str, stamp: tuple[int, ...]) -> bool:
    """Check whether a table has masks as preparation writes them. A changed table has another stamp."""
    from finetune.data.parquet import read_schema

    schema = read_schema(path)
    return MASK_COLUMN in schema.names and holds_images(schema.field(MASK_COLUMN).type)


def holds_images(kind: DataType) -> bool:
    """Recognize the image type of the datasets library."""
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {kind.field(part).name for part in range(kind.num_fields)}


def _masked_rows(path: str) -> Iterator[int]:
    from finetune.data.parquet import read_columns

    for first, columns in read_columns(path, [f"{MASK_COLUMN}.path"]):
        yield from (row for row, value in enumerate(columns[MASK_COLUMN], first) if value is not None)


def _own_name(value: Mapping[str, str | None] | None, *, has_masks: bool) -> str | None:
    """Return the image's name in a row, unless it names a mask."""
    path = None if value is None else value["path"]
    return None if path is None or (has_masks and is_mask_name(path)) else path


def mask_name(image: str) -> str:
    """Name the mask of a row, distinct from its image."""
    return f"{split_name(image)[0]}{MASK_SUFFIX}.png"


def note_other_images(columns: Sequence[str], place: str, findings: Findings) -> None:
    """Warn of image columns that are not read."""
    if columns:
        kind = "tables with further columns of images, which are not read; masks are read as files NAME-masklabel.png"
        findings.warn(kind, f"{place} ({', '.join(columns)})")


def parquet_tables(files: Mapping[str, str], name: str, image_column: str, caption_column: str) -> ParquetTables:
    """Open tables, given as name without suffix -> path. Raises ValueError if none is whole or one lacks images."""
    from finetune.data.parquet import check_image_column, read_schema

    whole, damaged = {}, []
    for stem, path in files.items():
        try:
            read_schema(path)
        except ValueError as error:
            if len(files) == 1:
                raise ValueError(f"source: {error}") from error
            damaged.append(Rejected(f"{stem}.parquet", "truncated", str(error).replace(path, "the file")))
            continue
        check_image_column(path, image_column, "image_column")
        whole[stem] = path
    return ParquetTables(whole, name, image_column, caption_column, tuple(damaged))


def row_name(stem: str, row: int, path: str | None) -> str:
    """Name a row by its number and its image's name."""
    return f"{stem}/{row:08d}-{posixpath.basename(path.replace(chr(92), '/')) if path else 'picture'}"


def row_entry(
    name: str,
    row: Mapping[str, Any],
    caption_column: str,
    place: str,
    findings: Findings,
    labels: Mapping[str, Sequence[str]],
) -> Entry:
    """Read the captions and settings of a row. Values that cannot be used are noted and omitted, but an object in place
    of the only caption is an error."""
    caption_column = caption_column_of(row, caption_column)
    caption = row.get(caption_column)
    if caption_column in labels and isinstance(caption, int) and 0 <= caption < len(labels[caption_column]):
        caption = labels[caption_column][caption]
    captions = usable_texts([caption, row.get("captions_alt")], name, findings)
    is_object = isinstance(caption, Mapping) and any(each.strip() for each in texts_within(caption))
    if not captions and (is_object or (isinstance(caption, str) and is_written_list(caption))):
        findings.error(f"{NOT_TEXT} (--caption_column)", f"{name} ({described(caption)})")
    found = Findings()
    entry = read_entry(name, tuple(captions), row, found)
    warn_of_errors(found, place, findings)
    return entry


def _row_of(source: str, stems: Iterable[str]) -> tuple[str, int]:
    """Split a name made by `row_name` into table and row."""
    stem, _, rest = source.rpartition("/")
    assert stem in stems, source
    return stem, int(rest.partition("-")[0])


def captioned_columns(names: Sequence[str], caption_column: str, place: str, findings: Findings) -> list[str]:
    """List the columns to read beside the images. Raises ValueError where the named caption column is missing,
    and where others may have the captions."""
    caption_column = chosen_column(names, caption_column, place, findings)
    if caption_column not in names:
        if caption_column != "text" or likely_columns(names):
            raise ValueError(missing_column("caption_column", caption_column, place, names))
        findings.warn(
            "tables without the column text; set caption_column where another one holds captions",
            f"{place} ({', '.join(names)})",
        )
    return [name for name in (caption_column, *EXTRA_COLUMNS) if name in names]


def _class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Map columns to class names where the datasets library wrote the table."""
    try:
        features = parse_json((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {column: kind for column, kind in features.items() if isinstance(kind, dict)}
        return {column: list(kind["names"]) for column, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError):  # somebody else's metadata
        return {}
