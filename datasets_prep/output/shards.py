"""Parquet shards of the original bytes of images."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from datasets_prep.output.images import NUM_THREADS, Row
from finetune.data.parquet import MASK_COLUMN
from finetune.data.visible_files import MASK_SUFFIX
from finetune.files import sync

ROW_GROUP = 64
"""Most rows that a reader of one image must read."""
GROUP_BYTES = 100_000_000
FEATURES: dict[str, pyarrow.DataType] = {
    "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
    "text": pyarrow.string(),
    "captions_alt": pyarrow.list_(pyarrow.string()),
    "width": pyarrow.int32(),
    "height": pyarrow.int32(),
    "bucket": pyarrow.list_(pyarrow.int32()),
    "sha256": pyarrow.string(),
    "source": pyarrow.string(),
    "split": pyarrow.string(),
    "weight": pyarrow.float64(),
    "repeats": pyarrow.int64(),
    "flags": pyarrow.list_(pyarrow.string()),
}
DATASETS_FEATURES = {
    "image": {"_type": "Image"},
    **{name: {"dtype": "string", "_type": "Value"} for name in ("text", "sha256", "source", "split")},
    **{name: {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"} for name in ("captions_alt", "flags")},
    **{name: {"dtype": "int32", "_type": "Value"} for name in ("width", "height")},
    "bucket": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"},
    "weight": {"dtype": "float64", "_type": "Value"},
    "repeats": {"dtype": "int64", "_type": "Value"},
}
MASK_FEATURES: dict[str, pyarrow.DataType] = {"mask": pyarrow.string(), MASK_COLUMN: FEATURES["image"]}
"""Only with masks."""
MASK_DATASETS_FEATURES = {"mask": {"dtype": "string", "_type": "Value"}, MASK_COLUMN: {"_type": "Image"}}


def schema_of(*, has_masks: bool) -> pyarrow.Schema:
    """Define the columns of a shard."""
    features = DATASETS_FEATURES | (MASK_DATASETS_FEATURES if has_masks else {})
    return pyarrow.schema(
        FEATURES | (MASK_FEATURES if has_masks else {}), {"huggingface": json.dumps({"info": {"features": features}})}
    )


def write_shards(
    folder: Path,
    side: str,
    places: Sequence[int],
    num_bytes: Sequence[int] | np.ndarray,
    rows: Sequence[Row],
    content: Callable[[Row], bytes],
    shard_mb: float,
    mask_content: Callable[[Row], bytes] | None = None,
) -> Iterator[tuple[str, int, int]]:
    """Write the rows at `places` to FOLDER/<side>-00000.parquet and so on. Yields the shard, the row in it and the
    place in `rows`. A shard ends with the row group that reaches `shard_mb`, and a row group with the image that makes
    it large, by `num_bytes`, which has one number per row. Bytes are the same for the same rows. `mask_content` gives
    the bytes of the mask of a row that has one; None where no row has."""
    schema = schema_of(has_masks=mask_content is not None)
    folder.mkdir(parents=True, exist_ok=True)
    used, number = 0, 0
    while used < len(places):
        name, size, start = f"{side}-{number:05d}.parquet", 0, used
        with pyarrow.parquet.ParquetWriter(folder / name, schema, compression="none", use_dictionary=False) as writer:
            while used < len(places) and size < shard_mb * 1e6:
                group = next_group(places[used : used + ROW_GROUP], num_bytes)
                table = as_table([rows[place] for place in group], content, mask_content)
                writer.write_table(table, row_group_size=ROW_GROUP)
                yield from ((name, used - start + row, place) for row, place in enumerate(group))
                size, used = size + table.nbytes, used + len(group)
        sync(folder / name)
        number += 1


def next_group(places: Sequence[int], num_bytes: Sequence[int] | np.ndarray) -> Sequence[int]:
    """Take places for one row group, at most about 100 MB."""
    total = 0
    for count, place in enumerate(places, 1):
        total += int(num_bytes[place])
        if total > GROUP_BYTES:
            return places[:count]
    return places


def as_table(
    rows: Sequence[Row], content: Callable[[Row], bytes], mask_content: Callable[[Row], bytes] | None = None
) -> pyarrow.Table:
    """Make a table of rows with their images and any masks."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        images = list(pool.map(content, rows))
    columns = [
        {name: row.get(name) for name in FEATURES}
        | {"image": {"bytes": data, "path": name_in_shard(row)}, "sha256": hashlib.sha256(data).hexdigest()}
        for row, data in zip(rows, images, strict=True)
    ]
    for row, values in zip(rows, columns, strict=True):
        if mask_content is not None and "mask" in row:
            path = f"{name_in_shard(row).rpartition('.')[0]}{MASK_SUFFIX}.png"
            values |= {"mask": row["mask"], MASK_COLUMN: {"bytes": mask_content(row), "path": path}}
    return pyarrow.Table.from_pylist(columns, schema_of(has_masks=mask_content is not None))


def name_in_shard(row: Row) -> str:
    """Return the file name that a row's image has in a folder."""
    return str(row["file_name"]).rpartition("/")[2]
