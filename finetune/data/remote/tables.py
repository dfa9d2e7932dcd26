"""Index a Parquet table, and read images from its row groups."""

import json
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.data.captions.columns import chosen_column, missing_column
from finetune.data.images.decode import upright_size
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Entry, Findings, read_captions
from finetune.data.parquet import PREPARED_COLUMNS, listed_image, stored_bytes
from finetune.data.remote.shard import IndexedImage, ShardReading
from finetune.data.remote.storage import RangeFile, RemoteFile, Storage
from finetune.plurals import first_line

if TYPE_CHECKING:
    from pyarrow import Array, Schema
    from pyarrow.parquet import ParquetFile

BESIDE = ("captions_alt", "width", "height", "sha256", "weight", "repeats", "split")
GROUPS_BYTES = 256 * 2**20
"""Decoded row groups that a process keeps."""
MOST_OPEN = 32


def index_table(
    storage: Storage, shard: RemoteFile, options: ShardReading, findings: Findings, kept: KeptFiles
) -> list[IndexedImage]:
    """Read a table once. An image's name is the shard's, "#", and its row.

    A table of `python -m datasets_prep` has sizes and hashes in columns, so its images are not read; those of others
    are. Where they are stored as they are, as `datasets` does too, their places are noted.
    """
    import pyarrow

    file = storage.open(shard)
    try:
        table = _parquet(file)
        if options.captions == "listed":
            column = chosen_column(table.schema_arrow.names, options.reading.column, shard.name, findings)
            options = replace(options, reading=replace(options.reading, column=column))
        needed = [options.image_column, *([options.reading.column] if options.captions == "listed" else [])]
        for name in [name for name in needed if name not in table.schema_arrow.names]:
            option = "image_column" if name == options.image_column else "caption_column"
            place = f"{storage.url}/{shard.name}"
            raise ValueError(missing_column(f"data.{option}", name, place, table.schema_arrow.names))
        if set(PREPARED_COLUMNS) - {"text"} <= set(table.schema_arrow.names):
            return list(_prepared(table, shard, options, findings))
        return list(_read(table, file, shard, options, findings, kept))
    except pyarrow.ArrowException as error:
        text = f"{shard.name} ({first_line(error)})"
        findings.error("tables that are damaged or not whole Parquet files", text)
        return []


def _prepared(
    table: "ParquetFile", shard: RemoteFile, options: ShardReading, findings: Findings
) -> Iterator[IndexedImage]:
    """Yield the images of a table from preparation."""
    names = table.schema_arrow.names
    is_captioned, column = options.captions == "listed", options.reading.column
    columns = [*([column] if is_captioned else []), *(name for name in BESIDE if name in names)]
    first = 0
    for group in range(table.num_row_groups):
        rows = table.read_row_group(group, columns=columns, use_threads=False).to_pylist()
        for number, row in enumerate(rows):
            texts = [row[column], row.get("captions_alt")] if is_captioned else None
            found = listed_image(_name(shard, first + number), row, texts, findings)
            if found is not None:
                yield IndexedImage(found.entry, found.width, found.height, found.sha256, group=group, row=number)
        first += len(rows)


def _read(
    table: "ParquetFile",
    file: RangeFile,
    shard: RemoteFile,
    options: ShardReading,
    findings: Findings,
    kept: KeptFiles,
) -> Iterator[IndexedImage]:
    """Yield the images of any table, each of which is read."""
    first = 0
    for group in range(table.num_row_groups):
        chunk, begin = _stored_chunk(table, file, group, options.image_column)
        images = table.read_row_group(group, columns=[options.image_column], use_threads=False).column(0)
        captions = _captions(table, group, options)
        end = 0
        for number, value in enumerate(images):
            name = _name(shard, first + number)
            try:
                data = stored_bytes(value)
                width, height = upright_size(data)
            except ValueError as error:
                findings.error("rows without a usable image", f"{name} ({error})")
                continue
            at = -1 if chunk is None else chunk.find(struct.pack("<I", len(data)) + data, end)
            end = end if at < 0 else at + 4 + len(data)
            texts = ("",) if captions is None else read_captions([captions[number]], name, findings)
            start = None if at < 0 else begin + at + 4
            yield IndexedImage(
                Entry(name, texts), width, height, kept.add(data), start, len(data), group=group, row=number
            )
        first += len(images)


def _name(shard: RemoteFile, row: int) -> str:
    return f"{shard.name}#{row:08d}"


def _stored_chunk(table: "ParquetFile", file: RangeFile, group: int, column: str) -> tuple[bytes | None, int]:
    """Return a row group's uncompressed bytes of images, and their place.

    None where they are compressed. pyarrow then finds them in memory and need not read them again.
    """
    described = table.metadata.row_group(group)
    for number in range(described.num_columns):
        chunk = described.column(number)
        if chunk.path_in_schema in (column, f"{column}.bytes") and chunk.compression == "UNCOMPRESSED":
            places = [chunk.data_page_offset]
            places += [chunk.dictionary_page_offset] if chunk.has_dictionary_page else []
            begin = min(places)
            return file.hold(begin, begin + chunk.total_compressed_size), begin
    return None, 0


def _captions(table: "ParquetFile", group: int, options: ShardReading) -> Sequence[object] | None:
    """Return the values of the caption column, class labels by name."""
    if options.captions == "none":
        return None
    column = options.reading.column
    values = table.read_row_group(group, columns=[column], use_threads=False).column(0).to_pylist()
    names = _class_names(table.schema_arrow, column)
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]


def _class_names(schema: "Schema", column: str) -> Sequence[str] | None:
    """Return the names of class labels, which `datasets` writes beside the schema."""
    written = (schema.metadata or {}).get(b"huggingface")
    try:
        features: Any = json.loads(written or b"{}")["info"]["features"][column]
    except (ValueError, LookupError, TypeError):
        return None
    is_label = isinstance(features, Mapping) and features.get("_type") == "ClassLabel"
    return features.get("names") if is_label else None


def _parquet(file: RangeFile) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, pre_buffer=True)


class RowGroups:
    """Row groups of remote tables, the last ones decoded. For images whose place in the file is not known."""

    def __init__(self, storage: Storage, column: str) -> None:
        self._storage, self._column = storage, column
        self._tables: OrderedDict[str, ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], Array] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: RemoteFile, group: int, row: int) -> bytes:
        """Return the bytes of an image."""
        with self._lock:
            key = shard.name, group
            if key not in self._groups:
                self._groups[key] = self._decoded(shard, group)
                while len(self._groups) > 1 and sum(each.nbytes for each in self._groups.values()) > GROUPS_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return stored_bytes(self._groups[key][row])

    def _decoded(self, shard: RemoteFile, group: int) -> "Array":
        import pyarrow

        try:
            if shard.name not in self._tables:
                self._tables[shard.name] = _parquet(self._storage.open(shard))
                if len(self._tables) > MOST_OPEN:
                    self._tables.popitem(last=False)
            table = self._tables[shard.name].read_row_group(group, columns=[self._column], use_threads=False)
        except pyarrow.ArrowException as error:
            raise ValueError(
                f"data.folder: {self._storage.url}/{shard.name} is damaged or was replaced "
                f"({first_line(error)}). Put the whole file there and run the same command again."
            ) from error
        return table.column(0).combine_chunks()
