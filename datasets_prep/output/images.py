"""Writes the pictures of a prepared data set: a file each, or Parquet shards of the original bytes."""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
import pyarrow.parquet

from finetune.data.folder import MASK_SUFFIX
from finetune.data.images.decode import open_rgb
from finetune.data.parquet import MASK_COLUMN
from finetune.files import put_in_place, sync, unfinished

Row = Mapping[str, object]
NUM_THREADS = min(4, os.cpu_count() or 1)
WRITTEN_AT_ONCE = 256
IMAGE_FOLDERS = ("images", "train", "validation")
"""The last two where there are sides."""
SIDE_COLUMNS = ("text", "width", "height", "bucket", "sha256", "source", "caption_from")
ROW_GROUP = 64
"""Rows that a reader of one picture has to read at most."""
GROUP_BYTES = 100_000_000


def image_bytes(
    read: Callable[[str], bytes], row: Row, reencode: Literal["no", "png", "webp"], background: tuple[int, int, int]
) -> bytes:
    """Returns what is written for a row: the source's bytes, or the same picture saved anew without loss.

    Raises ValueError where the source's bytes are no longer those that were measured.
    """
    source = str(row["source"])
    try:
        data = read(source)
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise ValueError("its bytes have changed")
        if reencode == "no":
            return data
        picture = open_rgb(data, background=background)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"source: {source} could be read before and now cannot ({error}). Run again once nothing writes to it."
        ) from error
    saved = io.BytesIO()
    if reencode == "png":
        picture.save(saved, "PNG")
    else:
        picture.save(saved, "WEBP", lossless=True)
    return saved.getvalue()


def write_files(
    output: Path, rows: Sequence[Row], content: Callable[[Row], bytes], sizes: Sequence[int] | np.ndarray | None
) -> None:
    """Writes OUTPUT/<file_name> for every row that has no such file yet; a name stands for its content.

    A file of another size than `sizes` says, where that is known, is written again.
    """

    def write(place: int) -> None:
        row = rows[place]
        path = output / str(row["file_name"])
        path.parent.mkdir(exist_ok=True)
        if path.exists() and (sizes is None or path.stat().st_size == sizes[place]):
            return
        temporary = unfinished(path)
        temporary.write_bytes(content(row))
        sync(temporary)
        temporary.replace(path)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, len(rows), WRITTEN_AT_ONCE):
            list(pool.map(write, range(start, min(start + WRITTEN_AT_ONCE, len(rows)))))
    for name in IMAGE_FOLDERS:
        if (output / name).is_dir():
            sync(output / name)


def write_masks(output: Path, rows: Sequence[Row], content: Callable[[Row], bytes]) -> list[str]:
    """Writes the masks that are not there yet with the same content; returns their names, which are the images'."""
    for row in rows:
        path = output / str(row["file_name"])
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            temporary = unfinished(path)
            temporary.write_bytes(content(row))
            sync(temporary)
            temporary.replace(path)
    return [str(row["file_name"]) for row in rows]


def write_sidecars(output: Path, rows: Sequence[Row]) -> list[str]:
    """Writes a .txt with a caption a line beside every picture; returns their names."""
    names = []
    for row in rows:
        name = os.path.splitext(str(row["file_name"]))[0] + ".txt"
        write_text(output / name, "".join(" ".join(caption.split()) + "\n" for caption in captions_of(row)))
        names.append(name)
    return names


def write_side_listings(output: Path, rows: Sequence[Row]) -> list[str]:
    """Writes metadata.jsonl into train/ and validation/, where `load_dataset` looks for it; returns the names.

    They hold the columns that every row has, since the two must have the same; OUTPUT/metadata.jsonl has the rest.
    """
    texts: dict[str, list[str]] = {}
    for row in rows:
        folder, _, name = str(row["file_name"]).partition("/")
        texts.setdefault(folder, []).extend(
            lines(
                [{"file_name": name, "split": folder} | {column: row[column] for column in SIDE_COLUMNS}],
                is_ascii=False,
            )
        )
    for folder, listed in texts.items():
        write_text(output / folder / "metadata.jsonl", "".join(listed))
    return [f"{folder}/metadata.jsonl" for folder in texts]


def captions_of(row: Row) -> list[str]:
    """Returns the caption that is trained on first, and the others."""
    others = row.get("captions_alt")
    return [str(row["text"]), *(map(str, others) if isinstance(others, list) else [])]


def remove_others(folder: Path, kept: Container[str], own_name: re.Pattern[str]) -> None:
    """Removes the files of a folder that this command wrote earlier, which their names tell, and no longer lists."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if name not in kept and own_name.fullmatch(name.removeprefix(".").removesuffix(".unfinished")):
            (folder / name).unlink()


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
"""Only where there are masks."""
MASK_DATASETS_FEATURES = {"mask": {"dtype": "string", "_type": "Value"}, MASK_COLUMN: {"_type": "Image"}}


def schema_of(*, has_masks: bool) -> pyarrow.Schema:
    """Returns the columns of a shard."""
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
    """Writes those of the rows into FOLDER/<side>-00000.parquet and so on; yields shard, row in it and place in `rows`.

    A shard ends with the row group that reaches `shard_mb`, and a row group with the picture that makes it large, by
    `num_bytes`, which has a figure a row. Bytes are the same for the same rows. `mask_content` gives the bytes of the
    mask of a row that has one; None where no row has.
    """
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
    """Returns the first of the places, as many as a row group of a tenth of a gigabyte takes."""
    total = 0
    for count, place in enumerate(places, 1):
        total += int(num_bytes[place])
        if total > GROUP_BYTES:
            return places[:count]
    return places


def as_table(
    rows: Sequence[Row], content: Callable[[Row], bytes], mask_content: Callable[[Row], bytes] | None = None
) -> pyarrow.Table:
    """Returns the rows with their pictures, and masks where there are any, as a table."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        images = list(pool.map(content, rows))
    columns = [
        {name: row.get(name) for name in FEATURES}
        | {"image": {"bytes": data, "path": name_in_shard(row)}, "sha256": hashlib.sha256(data).hexdigest()}
        for row, data in zip(rows, images, strict=True)
    ]
    if mask_content is None:
        return pyarrow.Table.from_pylist(columns, schema_of(has_masks=False))
    for row, values in zip(rows, columns, strict=True):
        if "mask" in row:
            stem = name_in_shard(row).rpartition(".")[0]
            values |= {
                "mask": row["mask"],
                MASK_COLUMN: {"bytes": mask_content(row), "path": f"{stem}{MASK_SUFFIX}.png"},
            }
    return pyarrow.Table.from_pylist(columns, schema_of(has_masks=True))


def name_in_shard(row: Row) -> str:
    """Returns the file name that a row's picture would have in a folder."""
    return str(row["file_name"]).rpartition("/")[2]


def lines(rows: Sequence[Row], *, is_ascii: bool) -> Iterator[str]:
    """Yields one JSON object a line; ASCII can also write names that are not UTF-8."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=is_ascii) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all, unless it holds that text already."""
    data, temporary = text.encode("utf-8"), unfinished(path)
    if path.exists() and path.read_bytes() == data:
        temporary.unlink(missing_ok=True)  # of a killed run
        return
    temporary.write_bytes(data)
    sync(temporary)
    put_in_place(temporary, path)


def write_listing(path: Path, rows: Sequence[Row], *, is_ascii: bool) -> str:
    """Writes a listing, line by line, beside its final place; returns its SHA-256. `put_in_place` follows."""
    digest = hashlib.sha256()
    with open(unfinished(path), "wb") as file:
        for line in lines(rows, is_ascii=is_ascii):
            data = line.encode("utf-8")
            digest.update(data)
            file.write(data)
    sync(unfinished(path))
    return digest.hexdigest()
