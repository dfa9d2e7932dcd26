"""Read images, and the columns beside them, from Parquet files. Only a few images are in memory at a time."""

import functools
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.listing import Entry, Findings, read_captions, read_entry
from finetune.plurals import first_line

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch, Scalar, Schema
    from pyarrow.parquet import ParquetFile, RowGroupMetaData

BATCH_BYTES = 32 * 2**20
"""What is decoded at a time; a row group that is smaller is read as a whole."""
ROWS_AT_ONCE = 4096
PREPARED_COLUMNS = ("image", "text", "width", "height", "sha256", "source")
"""Columns that every table of `python -m datasets_prep` has."""

MASK_COLUMN = "mask_image"
"""Column of the masks, where there are any; the column mask then names the source of each."""


@dataclass(frozen=True)
class ParquetSource:
    """Images of the tables in a folder. A file name is the table's, "#", and the number of the row."""

    root: str
    image_column: str

    def read(self, file_name: str) -> bytes:
        """Return the original bytes of a row's image."""
        table, _, row = file_name.rpartition("#")
        return read_image(os.path.join(self.root, table), self.image_column, int(row))


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A row of a prepared table, with the image's properties."""

    entry: Entry
    width: int
    height: int
    sha256: str
    has_mask: bool = False


def read_image(path: str, column: str, row: int) -> bytes:
    """Return the bytes of an image; OSError or ValueError says why not. Rows in order are fast, because each process
    keeps the last rows that it decoded."""
    status = os.stat(path)
    return _opened(path, column, (status.st_size, status.st_mtime_ns), os.getpid()).read(row)


def read_schema(path: str) -> "Schema":
    """Return columns and types; ValueError if the Parquet file is incomplete."""
    return _open_file(path).schema_arrow


def read_columns(path: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Sequence[Any]]]]:
    """Yield (first row, column -> values) in pieces. A part of a struct is named with a dot and comes as such."""
    import pyarrow

    first = 0
    try:
        for batch in _open_file(path).iter_batches(ROWS_AT_ONCE, columns=list(columns), use_threads=False):
            yield first, {name: batch.column(name).to_pylist() for name in batch.schema.names}
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}). Copy it again, or omit it.") from error


def num_rows(path: str) -> int:
    """Return the number of rows of a table."""
    return _open_file(path).metadata.num_rows


def check_image_column(path: str, column: str, option: str) -> None:
    """Refuse a column without the bytes of images; the error names `option`."""
    import pyarrow

    schema = read_schema(path)
    if column not in schema.names:
        raise ValueError(
            f"{option}: {column!r} is not a column of {path}, whose columns are {', '.join(schema.names)}. "
            f"Set {option} to the one with the images."
        )
    kind = schema.field(column).type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not _is_binary(kind):
        raise ValueError(
            f"{option}: the column {column!r} of {path} holds {kind}, expected the bytes of images. Where it has "
            "paths, use their folder, or a .txt file with one path per line, instead of the table."
        )


def _is_binary(kind: "DataType") -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _open_file(path: str) -> "ParquetFile":
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        if not os.path.isfile(path):
            raise
        raise ValueError(
            f"{path} is not a whole Parquet file ({first_line(error)}). Copy it again, or omit it."
        ) from error


class _OpenTable:
    """An open file, and its last two decoded pieces of images."""

    def __init__(self, path: str, column: str) -> None:
        self._file = _open_file(path)
        self._column = column
        groups = [self._file.metadata.row_group(number) for number in range(self._file.metadata.num_row_groups)]
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self._bytes = [_num_bytes(group, column) for group in groups]
        self._pieces: list[tuple[int, Array]] = []
        self._rest: Iterator[RecordBatch] = iter(())
        self._end = 0
        self._group = -1
        self._lock = threading.Lock()  # the pieces move on together with the file

    def read(self, row: int) -> bytes:
        with self._lock:
            if not 0 <= row < self._starts[-1]:
                raise ValueError(f"there is no row {row}, the table has {self._starts[-1]:,}")
            piece = self._piece(row)
            return stored_bytes(piece[1][row - piece[0]])

    def _piece(self, row: int) -> tuple[int, "Array"]:
        for piece in self._pieces:
            if piece[0] <= row < piece[0] + len(piece[1]):
                return piece
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group or row < self._end:
            self._start(group)
        while row >= self._end:
            values = self._next().column(0)
            self._pieces = [*self._pieces[-1:], (self._end, values)]
            self._end += len(values)
        return self._pieces[-1]

    def _next(self) -> "RecordBatch":
        import pyarrow

        try:
            return next(self._rest)
        except (pyarrow.ArrowException, OSError, StopIteration) as error:
            self._group = -1  # what is left of it gives nothing any more
            raise ValueError(f"its part of the table is damaged ({first_line(error)})") from error

    def _start(self, group: int) -> None:
        num_rows = int(self._starts[group + 1] - self._starts[group])
        at_once = min(num_rows, max(1, BATCH_BYTES * num_rows // max(1, self._bytes[group])))
        self._rest = self._file.iter_batches(at_once, row_groups=[group], columns=[self._column], use_threads=False)
        self._group, self._end = group, int(self._starts[group])


@functools.lru_cache(maxsize=8)
def _opened(path: str, column: str, stamp: tuple[int, int], process: int) -> _OpenTable:
    """Open a table once per stamp and process. A process must not inherit what a thread of its parent was reading."""
    return _OpenTable(path, column)


def _num_bytes(group: "RowGroupMetaData", column: str) -> int:
    columns = [group.column(number) for number in range(group.num_columns)]
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] == column)


def stored_bytes(value: "Scalar") -> bytes:
    """Return the bytes of an image from its value in a column. Raises ValueError where it has none."""
    import pyarrow

    if isinstance(value, pyarrow.StructScalar) and value.is_valid:
        if not value["bytes"].is_valid and value.as_py().get("path") is not None:
            raise ValueError("its row names a file instead of holding the image")
        value = value["bytes"]
    if not value.is_valid:
        raise ValueError("its row has no image")
    return value.as_buffer().to_pybytes()


def prepared_tables(root: str) -> list[str]:
    """Return the tables in the folder `data`, relative to `root`. There are none unless preparation wrote them."""
    names = sorted(path.name for path in (Path(root) / "data").glob("*.parquet"))
    tables = [f"data/{name}" for name in names if not name.startswith(".")]
    if tables and all(name in read_schema(os.path.join(root, tables[0])).names for name in PREPARED_COLUMNS):
        return tables
    return []


def read_prepared(
    root: str, tables: Sequence[str], caption_column: str, findings: Findings, is_captioned: bool = True
) -> Iterator[ListedImage]:
    """Yield what prepared tables list, in order; no image is opened. Notes what is wrong with a row."""
    for table in tables:
        path = os.path.join(root, table)
        check_image_column(path, "image", "data.image_column")
        there = read_schema(path).names
        missing = [name for name in (*PREPARED_COLUMNS, caption_column) if name not in there]
        if missing:
            raise ValueError(
                f"data.folder: {path} has no column {', '.join(missing)}, expected a table that preparation wrote. "
                f"Prepare the images again, or set data.caption_column to one of {', '.join(there)}."
            )
        beside = ("captions_alt", "width", "height", "sha256", "weight", "repeats", "split", "mask")
        for first, columns in read_columns(path, [caption_column, *(name for name in beside if name in there)]):
            for row, values in enumerate(zip(*columns.values(), strict=True), first):
                named = dict(zip(columns, values, strict=True))
                texts = [named[caption_column], named.get("captions_alt")] if is_captioned else None
                listed = listed_image(f"{table}#{row:08d}", named, texts, findings)
                if listed is not None:
                    yield listed


def listed_image(
    name: str, row: Mapping[str, object], texts: list[object] | None, findings: Findings
) -> ListedImage | None:
    """List the image of a row, or note the mistakes in it. Without `texts` the caption is empty."""
    width, height, sha256 = row["width"], row["height"], row["sha256"]
    if not (isinstance(width, int) and width > 0 and isinstance(height, int) and height > 0):
        findings.error("rows whose width and height are not sizes", f"{name} ({width!r} x {height!r})")
        return None
    if not isinstance(sha256, str) or re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        findings.error("rows whose sha256 is none", f"{name} ({sha256!r})")
        return None
    captions = ("",) if texts is None else read_captions(texts, name, findings)
    return ListedImage(read_entry(name, captions, row, findings), width, height, sha256, row.get("mask") is not None)
