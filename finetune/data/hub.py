"""Rows of a Hub dataset, or of a folder for `datasets`."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from finetune.data.captions.columns import chosen_column, missing_column
from finetune.data.listing import Entry, Findings, read_captions
from finetune.data.visible_files import is_saved_dataset
from finetune.plurals import first_line

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray

ROWS_AT_ONCE = 1024
SAMPLE_KEY = "__key__"
"""Column that `datasets` adds to the rows of WebDataset archives."""


@dataclass(frozen=True, eq=False)
class RowSource:
    """Images of a dataset's rows. A file name begins with the row's number."""

    rows: Dataset
    image_column: str
    roots: tuple[str, ...]
    """Folders that a row with a path instead of bytes may point into."""

    def read(self, file_name: str) -> bytes:
        """Return the original bytes of a row's image. An image stored as plain numbers is encoded as PNG."""
        return image_bytes(self.rows[int(file_name.partition("-")[0])][self.image_column], self.roots)


def image_bytes(value: object, roots: Sequence[str]) -> bytes:
    """Return the bytes of a row's value or of its file. The file must be in one of the `roots`."""
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
        if value is None and path is not None:
            real = os.path.realpath(path)
            if not any(Path(real).is_relative_to(root) for root in roots):
                raise ValueError("its row names a file outside the dataset")
            return Path(real).read_bytes()
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        encoded = io.BytesIO()
        Image.fromarray(np.asarray(value, dtype=np.uint8)).save(encoded, "PNG")
        return encoded.getvalue()
    raise ValueError(f"its row has no image but {type(value).__name__}")


def read_rows(
    location: str,
    image_column: str,
    caption_column: str,
    findings: Findings,
    captions: Literal["listed", "folder", "none"] = "listed",
) -> tuple[list[Entry], RowSource]:
    """Return the listed images and their source. Raises ValueError where the dataset or a column is missing."""
    import datasets

    if captions == "folder":
        raise ValueError(
            f"data.captions: got folder, but the rows of {location} are not in folders. Set data.caption_column to the "
            "column of their labels and omit data.captions."
        )
    rows = open_rows(location, findings=findings)
    if SAMPLE_KEY in rows.column_names:
        image_column, caption_column = sample_columns(rows, image_column, caption_column)
    if captions == "listed":
        caption_column = chosen_column(rows.column_names, caption_column, location, findings)
    needed = {"image_column": image_column} | ({} if captions == "none" else {"caption_column": caption_column})
    for option, column in needed.items():
        if column not in rows.column_names:
            raise ValueError(missing_column(f"data.{option}", column, location, rows.column_names))
    if isinstance(rows.features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    entries = []
    for name, row in iterate_rows(rows, image_column, [] if captions == "none" else [caption_column]):
        value = None if captions == "none" else row[caption_column]
        if SAMPLE_KEY in rows.column_names and isinstance(value, dict):
            value = value.get("caption", value)
        entries.append(Entry(name, ("",) if captions == "none" else read_captions([value], name, findings)))
    if not entries:
        raise ValueError(f"data.folder: {location} has no rows, expected images with captions. Choose another dataset.")
    return entries, row_source(rows, image_column, location)


def sample_columns(rows: Dataset, image_column: str, caption_column: str) -> tuple[str, str]:
    """Find the columns of WebDataset archives where the usual ones are missing. Columns are named after the endings of
    files. The only images count, and captions in .txt before those in .json."""
    import datasets

    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if image_column == "image" and image_column not in rows.column_names and len(images) == 1:
        image_column = images[0]
    texts = [name for name in ("txt", "json") if name in rows.column_names]
    if caption_column == "text" and caption_column not in rows.column_names and texts:
        caption_column = texts[0]
    return image_column, caption_column


def archives_beside_tables(location: str) -> list[str]:
    """Return a folder's archives where tables repeat their captions. img2dataset writes both; `datasets` would read the
    tables, which have no images."""
    found = sorted(str(path) for path in Path(location).rglob("*.tar"))
    tables = list(Path(location).rglob("*.parquet"))
    return found if tables and {Path(path).with_suffix(".parquet") for path in found}.issuperset(tables) else []


def tables_of_archives(path: Path, files: Sequence[str]) -> list[Path]:
    """Return the tables of a folder that has archives too."""
    has_archives = any(name.endswith(".tar") for name in files)
    return [path / name for name in files if has_archives and name.endswith(".parquet")]


def lists_of_folders(root: str, files: Sequence[str], findings: Findings) -> set[str]:
    """Return img2dataset's tables and statistics beside its folders. These are 00000.parquet and 00000_stats.json
    beside 00000/. The rows whose images could not be fetched are noted."""
    folders = {posixpath.dirname(name) for name in files}
    stems = [name.removesuffix(".parquet") for name in files if name.endswith(".parquet")]
    tables = []
    for stem in sorted(folders.intersection(stems)):
        from pyarrow import ArrowInvalid, parquet

        with contextlib.suppress(ArrowInvalid):
            if {"url", "status"} <= set(parquet.read_schema(Path(root, f"{stem}.parquet")).names):
                tables.append(stem)
    note_failed_downloads([Path(root, f"{stem}.parquet") for stem in tables], findings)
    return {f"{stem}{ending}" for stem in tables for ending in (".parquet", "_stats.json")}


def note_failed_downloads(tables: Iterable[Path], findings: Findings) -> None:
    """Count the rows of img2dataset's tables whose images could not be fetched."""
    import pyarrow
    from pyarrow import parquet

    for path in tables:
        try:
            file = parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid:
            findings.warn("tables beside archives that cannot be read, and are not needed", path.name)
            continue
        if not {"url", "status"} <= set(file.schema_arrow.names):
            continue
        counts = file.read(["status"])["status"].value_counts().to_pylist()
        num_failed = sum(each["counts"] for each in counts if each["values"] != "success")
        if num_failed:
            kind = "tables of img2dataset with images that could not be fetched, of which there are no files"
            findings.warn(kind, f"{path.name} ({num_failed:,} of {file.metadata.num_rows:,})")


def row_source(rows: Dataset, image_column: str, location: str) -> RowSource:
    """Return the source of images whose column is not decoded."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    roots = [str(HF_DATASETS_CACHE), HF_HUB_CACHE, *([location] if os.path.isdir(location) else [])]
    images = rows.select_columns([image_column])
    return RowSource(images, image_column, tuple(os.path.realpath(root) for root in roots))


def iterate_rows(rows: Dataset, image_column: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the name of every row and its values in some columns. Class labels become their names; no image is read."""
    import datasets

    names = rows.select_columns([image_column]).with_format("arrow")
    others = rows.select_columns(list(columns)) if columns else None
    labels = {column: rows.features[column] for column in columns}
    labels = {column: label for column, label in labels.items() if isinstance(label, datasets.ClassLabel)}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        paths = _paths(names[start:stop][image_column])
        values = {} if others is None else others[start:stop]
        for row, path in enumerate(paths, start):
            found = {column: values[column][row - start] for column in columns}
            for column, label in labels.items():
                if found[column] is not None:
                    found[column] = label.int2str(found[column]) if found[column] >= 0 else None  # -1: unlabelled
            yield f"{row:08d}-{Path(path).name if path else 'picture'}", found


def _paths(column: ChunkedArray) -> list[str | None]:
    """Return the images' `path`s in a column, without copying images."""
    import pyarrow

    if not pyarrow.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return [None] * len(column)
    return [path for chunk in column.chunks for path in chunk.field("path").to_pylist()]


def _ask_hub_once(location: str) -> None:
    """Raise at once without the dataset or the network. `load_dataset` finds out only after half a
    minute of retries. Passes where the cache contains a dataset of that owner, which may serve without network."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub import HfApi

    owner = location.partition("/")[0]
    if not any(Path(HF_DATASETS_CACHE).glob(f"{owner}___*")):
        HfApi().dataset_info(location, timeout=5)


def open_rows(location: str, split: str = "train", findings: Findings | None = None) -> Dataset:
    """Open a split of a folder or dataset; note other splits. Raises ValueError where it cannot be loaded."""
    import datasets

    is_local = os.path.isdir(location)
    is_saved = is_saved_dataset(Path(location))
    archives = archives_beside_tables(location) if is_local and not is_saved else []
    loader = datasets.load_from_disk if is_saved else datasets.load_dataset
    try:
        if not is_local:
            _ask_hub_once(location)
        if archives:
            rows = datasets.load_dataset("webdataset", data_files={split: archives})
        else:
            rows = loader(location)
    except Exception as error:  # network, permission, format: the loaders of a dozen formats raise freely
        reason = first_line(error)
        raise ValueError(
            f"data.folder: {location} could not be loaded with datasets.{loader.__name__} ({reason}). "
            + ("Save it again." if is_saved else "Correct its files, or prepare them again.")
            if is_local
            else f"data.folder: there is no folder {location}, and the Hub dataset of that name could not be loaded "
            f"({reason}). Check spelling and network, and log in with `hf auth login` where it is private or gated."
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise ValueError(
                f"data.folder: {location} has the splits {', '.join(map(str, rows))}, expected one called {split}. "
                "Save the split to train on by itself."
            )
        for other in rows:
            if other != split and findings is not None:
                findings.warn(f"splits that are not read beside {split}", str(other))
        rows = rows[split]
    assert isinstance(rows, datasets.Dataset)
    return rows
