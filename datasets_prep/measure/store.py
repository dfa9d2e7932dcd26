"""A store of measurements, so later runs measure only new files.

Rows are in Arrow files that are written once, whole, and never changed; their names are hashes of the keys, so several
machines may add to one folder. The key of a row is 16 bytes that depend on the file, the versions and the options.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc

from datasets_prep.measure.image import SCORES
from datasets_prep.records import Item, Measured, Rejected
from finetune.files import sync
from finetune.similarity.codes import KINDS, NUM_WORDS

KEY_BYTES, HASH_BYTES = 16, 32
CODES = len(KINDS), NUM_WORDS
"""Codes of an image, and words of 64 bits in each."""
ONE_CODE_BYTES = NUM_WORDS * 8
CODE_BYTES = len(KINDS) * ONE_CODE_BYTES
KEY = np.dtype(f"S{KEY_BYTES}")  # drops zeros at the end where a single one is looked at, but not in comparisons
TRANSIENT = ("timeout", "worker_crashed", "out_of_memory", "unreadable")
"""Reasons that may not recur; they are not stored."""
SCHEMA = pyarrow.schema(
    {
        "key": pyarrow.binary(KEY_BYTES),
        "reason": pyarrow.string(),
        "detail": pyarrow.string(),
        "sha256": pyarrow.binary(HASH_BYTES),
        "pixels_sha256": pyarrow.binary(HASH_BYTES),
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
NOTHING = {"sha256": bytes(HASH_BYTES), "pixels_sha256": bytes(HASH_BYTES), "num_bytes": 0, "width": 0, "height": 0}
NOTHING |= {"suffix": "", "codes": bytes(CODE_BYTES), "scores": [0.0] * len(SCORES), "notes": [], "caption": None}


def row_key(salt: str, item: Item) -> bytes:
    """Hash what the measurements of a file depend on. `salt` stands for the versions and options."""
    text = "\0".join((salt, item.source, *map(str, item.stamp)))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()


def as_keys(keys: Sequence[bytes]) -> np.ndarray:
    """Join keys into an array [N]."""
    return np.frombuffer(b"".join(keys), KEY)


class Store:
    """The Arrow files of a folder, as rows found by key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.damaged: list[Path] = []
        """Files that cannot be read, whose rows are therefore missing."""
        keys, paths = [np.empty(0, KEY)], []
        for path in sorted(folder.glob("*.arrow")):
            try:
                keys.append(fixed_bytes(opened(path)["key"], KEY_BYTES).view(KEY)[:, 0])
            except (pyarrow.ArrowInvalid, KeyError):
                self.damaged.append(path)
            else:
                paths.append(path)
        self.parts = Parts(paths, np.cumsum([len(part) for part in keys]))
        self.keys = np.concatenate(keys)
        self.order = np.argsort(self.keys, kind="stable")

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Find the row of each key [N], -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        found = np.searchsorted(self.keys, keys, sorter=self.order)
        rows = self.order[np.minimum(found, len(self.keys) - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)


@dataclass(frozen=True)
class Parts:
    """The files of a store, without the keys."""

    paths: Sequence[Path]
    starts: np.ndarray
    """The first row of each file, then the number of rows."""

    def rows(self, places: np.ndarray, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pyarrow.Table]]:
        """Yield the positions in `places` [N] and their columns, file by file."""
        order = np.argsort(places, kind="stable")
        cuts = np.searchsorted(places[order], self.starts)
        for path, start, begin, end in zip(self.paths, self.starts, cuts, cuts[1:], strict=False):
            if begin < end:
                chosen = order[begin:end]
                yield chosen, opened(path).select(list(columns)).take(pyarrow.array(places[chosen] - start))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs left. No other run may be writing to the folder."""
    for left in folder.glob("*.unfinished"):
        left.unlink()


def opened(path: Path) -> pyarrow.Table:
    """Open the table of a file; only used columns are read."""
    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def fixed_bytes(column: pyarrow.ChunkedArray, width: int) -> np.ndarray:
    """Convert a column of `width` bytes per row to uint8 [N width]."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, width)[chunk.offset :][: len(chunk)]
        for chunk in column.chunks
    ]
    return np.concatenate([np.empty((0, width), np.uint8), *chunks])


def write_part(folder: Path, rows: Sequence[tuple[bytes, Measured | Rejected]]) -> None:
    """Add rows by key, all or none of them."""
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
    """Convert a result to a row."""
    if isinstance(result, Rejected):
        return NOTHING | {"key": key, "reason": result.reason, "detail": result.detail}
    kept = {name: getattr(result, name) for name in ("sha256", "pixels_sha256", "num_bytes", "width", "height")}
    kept |= {"suffix": result.suffix, "notes": list(result.notes), "caption": result.caption}
    scores = [result.scores[name] for name in SCORES]
    return kept | {"key": key, "reason": None, "detail": None, "codes": result.codes.tobytes(), "scores": scores}
