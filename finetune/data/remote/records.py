"""Images of an index on disk, as records and as bytes."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from finetune.data.captions.rewrite import CaptionEdits, edited_captions
from finetune.data.listing import Findings
from finetune.data.manifest import Record
from finetune.data.remote.storage import RemoteFile, Storage
from finetune.data.remote.tables import RowGroups

if TYPE_CHECKING:
    from pyarrow import Table

ROWS_AT_ONCE = 1024


class IndexedRecords(Sequence[Record]):
    """The records of an index, each made when it is read.

    The index is mapped, so it takes no memory of its own.
    """

    def __init__(self, path: Path, edits: CaptionEdits) -> None:
        self._path, self._edits = path, edits
        self._table = open_index(path)

    def __reduce__(self) -> tuple[type["IndexedRecords"], tuple[Path, CaptionEdits]]:
        return IndexedRecords, (self._path, self._edits)

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        (row,) = self._table.slice(index % len(self), 1).to_pylist()
        return self._record(row, Findings())

    def __iter__(self) -> Iterator[Record]:
        return self.checked(Findings())

    def checked(self, findings: Findings) -> Iterator[Record]:
        """Yield all records, and note what is wrong with their changed captions."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            for row in self._table.slice(start, ROWS_AT_ONCE).to_pylist():
                yield self._record(row, findings)

    def _record(self, row: Mapping[str, Any], findings: Findings) -> Record:
        name = row["file_name"]
        captions = edited_captions(name, tuple(row["captions"]), self._edits, findings)
        size = row["width"], row["height"]
        return Record(name, captions, *size, row["sha256"].hex(), row["weight"], row["repeats"], row["split"])


@dataclass(frozen=True)
class RemoteSource:
    """The bytes of an index's images, read from storage."""

    storage: Storage
    index: Path
    image_column: str

    def read(self, file_name: str) -> bytes:
        """Return an image's original bytes, a range or a row."""
        return _opened(self, os.getpid()).read(file_name)


class _OpenSource:
    """An index as one process reads it."""

    def __init__(self, source: RemoteSource) -> None:
        self._storage = source.storage
        self._table = open_index(source.index)
        self._names = self._table.column("file_name")
        self._shards = shards_of(self._table)
        self._groups = RowGroups(source.storage, source.image_column)

    def read(self, file_name: str) -> bytes:
        row = self._row(file_name)
        shard = self._shards[row["shard"]]
        if row["start"] is not None:
            return self._storage.read(shard.name, row["start"], row["start"] + row["length"])
        return self._groups.read(shard, row["group"], row["row"])

    def _row(self, file_name: str) -> Mapping[str, Any]:
        """Find an image among the sorted names."""
        wanted, low, high = os.fsencode(file_name), 0, len(self._names)
        while low < high:
            middle = (low + high) // 2
            if os.fsencode(self._names[middle].as_py()) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self._names) or self._names[low].as_py() != file_name:
            raise FileNotFoundError(f"{file_name} is not in the index of {self._storage.url}")
        (row,) = self._table.select(["shard", "start", "length", "group", "row"]).slice(low, 1).to_pylist()
        return row


@functools.lru_cache(maxsize=16)
def _opened(source: RemoteSource, process: int) -> _OpenSource:
    """Open a source once per process; connections and locks are not inherited."""
    return _OpenSource(source)


def open_index(path: Path) -> "Table":
    """Map an index into memory. Raises ValueError where it is damaged."""
    import pyarrow

    try:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
    except pyarrow.ArrowException as error:
        raise ValueError(f"cache: {path} is damaged. Delete that file and run again; it is made again.") from error


def shards_of(table: "Table") -> list[RemoteFile]:
    """Return the shards that a column of an index counts."""
    listed = json.loads((table.schema.metadata or {})[b"shards"])
    return [RemoteFile(*each) for each in listed]
