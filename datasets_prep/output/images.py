"""Images and masks of a prepared folder."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.data.images.decode import open_rgb
from finetune.files import sync, unfinished

Row = Mapping[str, object]
NUM_THREADS = min(4, os.cpu_count() or 1)
WRITTEN_AT_ONCE = 256
IMAGE_FOLDERS = ("images", "train", "validation")
"""The last two where there is a split."""


def image_bytes(
    read: Callable[[str], bytes], row: Row, reencode: Literal["no", "png", "webp"], background: tuple[int, int, int]
) -> bytes:
    """Return a row's bytes: the source's, or saved again losslessly. Raises ValueError where the source has changed."""
    source = str(row["source"])
    try:
        data = read(source)
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise ValueError("its bytes have changed")
        if reencode == "no":
            return data
        image = open_rgb(data, background=background)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"source: {source} could be read before and now cannot ({error}). Run again once nothing writes to it."
        ) from error
    saved = io.BytesIO()
    image.save(saved, reencode, lossless=True)  # PNG always is
    return saved.getvalue()


def write_files(
    output: Path, rows: Sequence[Row], content: Callable[[Row], bytes], sizes: Sequence[int] | np.ndarray | None
) -> None:
    """Write OUTPUT/<file_name> for every row without such a file. The name depends on the content. A file whose size is
    not that in `sizes`, if known, is written again."""

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
    """Write masks that are missing or differ; return their names. They are the names of their images."""
    for row in rows:
        path = output / str(row["file_name"])
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            temporary = unfinished(path)
            temporary.write_bytes(content(row))
            sync(temporary)
            temporary.replace(path)
    return [str(row["file_name"]) for row in rows]


def remove_others(folder: Path, kept: Container[str], own_name: re.Pattern[str]) -> None:
    """Remove files that this command wrote earlier and no longer lists. Their names tell."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if name not in kept and own_name.fullmatch(name.removeprefix(".").removesuffix(".unfinished")):
            (folder / name).unlink()
