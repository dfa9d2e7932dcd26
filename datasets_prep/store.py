"""Keeps what was measured, so that a rerun, or one after a kill, measures only what is new.

Rows lie in Arrow files that are written once, whole, and never changed; their names are the hashes of what they hold,
so that several machines may add to one folder. A row is found by a key of 16 bytes over all that it depends on.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc

from datasets_prep.measure import SCORES
from datasets_prep.records import Item, Measured, Rejected
from finetune.disk import sync

KEY_BYTES, CODE_BYTES = 16, 12 * 4 * 8
TRANSIENT = ("timeout", "worker_crashed", "out_of_memory", "unreadable")
"""Reasons that another try may not meet; they are not kept."""
SCHEMA = pyarrow.schema(
    {
        "key": pyarrow.binary(KEY_BYTES),
        "reason": pyarrow.string(),
        "detail": pyarrow.string(),
        "sha256": pyarrow.binary(32),
        "pixels_sha256": pyarrow.binary(32),
        "num_bytes": pyarrow.int64(),
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "suffix": pyarrow.string(),
        "codes": pyarrow.binary(CODE_BYTES),
        "scores": pyarrow.list_(pyarrow.float32(), len(SCORES)),
        "notes": pyarrow.list_(pyarrow.string()),
        "caption": pyarrow.string(),
    }
)
NOTHING = {"sha256": bytes(32), "pixels_sha256": bytes(32), "num_bytes": 0, "width": 0, "height": 0, "suffix": ""}
NOTHING |= {"codes": bytes(CODE_BYTES), "scores": [0.0] * len(SCORES), "notes": [], "caption": None}


def row_key(salt: str, item: Item) -> bytes:
    """Returns the key of what is measured of a file; `salt` stands for the versions and options."""
    text = "\0".join((salt, item.source, *map(str, item.stamp)))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()


class Store:
    """The Arrow files of a folder, as a table of rows by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.unfinished"):  # by a killed run; another machine's has its own name
            if left.stat().st_size == 0:
                left.unlink(missing_ok=True)
        self.parts = [opened(path) for path in sorted(folder.glob("*.arrow"))]
        keys = [column_array(part["key"], KEY_BYTES) for part in self.parts]
        self.keys = np.concatenate([np.empty(0, f"S{KEY_BYTES}"), *keys])
        self.order = np.argsort(self.keys, kind="stable")

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Returns the row of each key (S16), -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        found = np.searchsorted(self.keys, keys, sorter=self.order)
        rows = self.order[np.minimum(found, len(self.keys) - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)

    def take(self, rows: np.ndarray) -> pyarrow.Table:
        """Returns those rows, in that order."""
        if not self.parts:
            return SCHEMA.empty_table()
        return pyarrow.concat_tables(self.parts).take(pyarrow.array(rows)).combine_chunks()


def opened(path: Path) -> pyarrow.Table:
    """Returns the table of a file without reading it as a whole."""
    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def column_array(column: pyarrow.ChunkedArray, width: int) -> np.ndarray:
    """Returns a column of `width` bytes a row as an array [N] of that many bytes."""
    chunks = [np.frombuffer(chunk.buffers()[1], f"S{width}")[chunk.offset :][: len(chunk)] for chunk in column.chunks]
    return np.concatenate([np.empty(0, f"S{width}"), *chunks])


def write_part(folder: Path, rows: Sequence[tuple[bytes, Measured | Rejected]]) -> None:
    """Adds rows by key; they are there as a whole or not at all."""
    table = pyarrow.Table.from_pylist([as_row(key, result) for key, result in rows], SCHEMA)
    temporary = folder / f"{uuid.uuid4().hex}.unfinished"
    try:
        with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(table)
        sync(temporary)
        digest = hashlib.blake2b(b"".join(sorted(key for key, _ in rows)), digest_size=KEY_BYTES).hexdigest()
        temporary.replace(folder / f"{digest}.arrow")
        sync(folder)
    finally:
        temporary.unlink(missing_ok=True)


def as_row(key: bytes, result: Measured | Rejected) -> dict[str, object]:
    """Returns the row of a result."""
    if isinstance(result, Rejected):
        return NOTHING | {"key": key, "reason": result.reason, "detail": result.detail}
    kept = {name: getattr(result, name) for name in ("sha256", "pixels_sha256", "num_bytes", "width", "height")}
    kept |= {"suffix": result.suffix, "notes": list(result.notes), "caption": result.caption}
    scores = [result.scores[name] for name in SCORES]
    return kept | {"key": key, "reason": None, "detail": None, "codes": result.codes.tobytes(), "scores": scores}


@dataclass(frozen=True)
class Pictures:
    """The pictures that decode, in the order of their names, as columns."""

    sources: Sequence[str]
    sha256: np.ndarray
    """[N] 32 bytes each (S32 keeps no trailing zeros: compare, never print)."""
    pixels_sha256: np.ndarray
    num_bytes: np.ndarray
    width: np.ndarray
    height: np.ndarray
    codes: np.ndarray
    """[N 12 4] uint64."""
    scores: np.ndarray
    """[N S] float32, a column a name in SCORES."""
    table: pyarrow.Table
    """suffix, notes and caption, and the rest again."""

    def __len__(self) -> int:
        return len(self.sources)

    def score(self, name: str) -> np.ndarray:
        """Returns a column of the scores."""
        return self.scores[:, SCORES.index(name)]

    def hex(self, index: int) -> str:
        """Returns the SHA-256 of a picture's bytes in hex."""
        return self.table["sha256"][index].as_py().hex()


def as_pictures(sources: Sequence[str], table: pyarrow.Table) -> Pictures:
    """Returns the rows of a table, which are those of `sources`, as columns."""
    num = len(sources)
    scores = table["scores"].combine_chunks()
    flat = scores.flatten().to_numpy(zero_copy_only=False) if num else np.zeros(0, np.float32)
    codes = column_array(table["codes"], CODE_BYTES)
    return Pictures(
        sources=sources,
        sha256=column_array(table["sha256"], 32),
        pixels_sha256=column_array(table["pixels_sha256"], 32),
        num_bytes=table["num_bytes"].to_numpy(),
        width=table["width"].to_numpy(),
        height=table["height"].to_numpy(),
        codes=np.frombuffer(codes.tobytes() if num else b"", np.uint64).reshape(num, 12, 4),
        scores=flat.reshape(num, len(SCORES)),
        table=table,
    )
