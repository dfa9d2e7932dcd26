"""Datasets of the datasets library, from the Hub or `Dataset.save_to_disk`."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets_prep.records import Item, Listing, Rejected
from datasets_prep.sources.folder import sorted_listing
from datasets_prep.sources.scan import stamp_of
from datasets_prep.sources.tables import captioned_columns, note_other_images, row_entry
from finetune.data.captions.reading import is_unicode
from finetune.data.listing import Entry, Findings, ImageSource

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray


@dataclass(frozen=True)
class SavedRows:
    """The rows of datasets, named by row number and image name. With several datasets, their names come first.
    Processes that only read images load neither the datasets library nor, with it, torch."""

    locations: Mapping[str, tuple[str, str]]
    """Prefix of the names, empty or ending in "/" -> folder or Hub id, and split."""
    images: Mapping[str, ImageSource]
    """The same prefix -> where to read."""
    name: str
    image_column: str
    caption_column: str

    def listing(self, findings: Findings) -> Listing:
        import datasets

        from finetune.data.hub import iterate_rows

        items, rejected = [], []
        for prefix, location in self.locations.items():
            rows = _opened(*location, self.image_column)
            others = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
            note_other_images([name for name in others if name != self.image_column], location[0], findings)
            files = [stamp_of(os.stat(file["filename"])) for file in rows.cache_files]
            stamp = tuple(number for numbers in files for number in numbers[:2])
            stamp = stamp if len(stamp) <= 4 else (sum(stamp[::2]), max(stamp[1::2]))
            for row, (name, _) in enumerate(iterate_rows(rows, self.image_column, [])):
                if is_unicode(name):
                    items.append(Item(prefix + name, (*stamp, row)))
                else:
                    rejected.append(Rejected(prefix + name, "unreadable", "its name is not UTF-8"))
        return sorted_listing(items, rejected)

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        from finetune.data.hub import iterate_rows

        wanted = set(sources)
        entries = {}
        for prefix, location in self.locations.items():
            rows = _opened(*location, self.image_column)
            there = captioned_columns(rows.column_names, self.caption_column, location[0], findings)
            for name, row in iterate_rows(rows, self.image_column, there):
                if prefix + name in wanted:
                    entries[prefix + name] = row_entry(prefix + name, row, self.caption_column, self.name, findings, {})
        return {name: entries[name] for name in sources}

    def read(self, source: str) -> bytes:
        prefix = "" if "" in self.images else source.partition("/")[0] + "/"
        return self.images[prefix].read(source.removeprefix(prefix))


@dataclass(frozen=True)
class ArrowFiles:
    """Images in the files of a dataset. One or two files are mapped into memory at a time."""

    paths: tuple[str, ...]
    first_rows: tuple[int, ...]
    """The first row of each file, counted over all files."""
    image_column: str
    roots: tuple[str, ...]
    """Folders that may be read where a row has a path instead of bytes."""

    def read(self, file_name: str) -> bytes:
        """Read the original bytes of a row's image. The name begins with the row's number."""
        from finetune.data.hub import image_bytes

        row = int(file_name.partition("-")[0])
        place = bisect.bisect_right(self.first_rows, row) - 1
        column = _column(self.paths[place], self.image_column)
        return image_bytes(column[row - self.first_rows[place]].as_py(), self.roots)


def saved_rows(
    locations: Mapping[str, tuple[str, str]], name: str, image_column: str, caption_column: str
) -> SavedRows:
    """Open datasets, given as prefix -> (location, split). Raises ValueError where one or its images are missing."""
    from finetune.data.hub import row_source

    images: dict[str, ImageSource] = {}
    for prefix, (location, split) in locations.items():
        rows = _opened(location, split, image_column)
        source = row_source(rows, image_column, location)
        images[prefix] = _arrow_files(rows, image_column, source.roots) or source
    return SavedRows(locations, images, name, image_column, caption_column)


def _opened(location: str, split: str, image_column: str) -> Dataset:
    states = [os.path.join(location, *folder, "state.json") for folder in ((), (split,))]
    stamp = tuple(os.stat(state).st_mtime_ns for state in states if os.path.exists(state))
    return _opened_at(location, split, image_column, stamp)


@functools.lru_cache(maxsize=8)
def _opened_at(location: str, split: str, image_column: str, stamp: tuple[int, ...]) -> Dataset:
    """Open a dataset; the stamp tells apart datasets of the same name."""
    import datasets

    from finetune.data.hub import open_rows

    try:
        rows = open_rows(location, split)
    except ValueError as error:
        raise ValueError(str(error).replace("data.folder", "source")) from error
    if image_column not in rows.column_names:
        raise ValueError(
            f"image_column: {image_column!r} is not a column of {location}, whose columns are "
            f"{', '.join(rows.column_names)}. Set image_column to the one with the images."
        )
    is_image = isinstance(rows.features[image_column], datasets.Image)
    return rows.cast_column(image_column, datasets.Image(decode=False)) if is_image else rows


def _arrow_files(rows: Dataset, image_column: str, roots: tuple[str, ...]) -> ArrowFiles | None:
    """Map the rows to their files. None where the rows are not those of the files in order."""
    from pyarrow import types

    paths = tuple(file["filename"] for file in rows.cache_files)
    columns = [_column(path, image_column) for path in paths]
    counts = [len(column) for column in columns]
    if sum(counts) != len(rows) or not all(types.is_struct(c.type) or types.is_binary(c.type) for c in columns):
        return None
    firsts = tuple(sum(counts[:place]) for place in range(len(counts)))
    return ArrowFiles(paths, firsts, image_column, roots)


def _column(path: str, name: str) -> ChunkedArray:
    return _column_at(path, name, stamp_of(os.stat(path)))


@functools.lru_cache(maxsize=2)
def _column_at(path: str, name: str, stamp: tuple[int, ...]) -> ChunkedArray:
    """Map the images of a file into memory without copying. It takes address space, of which there may be little."""
    import pyarrow

    with pyarrow.memory_map(path) as file:
        return pyarrow.ipc.open_stream(file).read_all().column(name)
