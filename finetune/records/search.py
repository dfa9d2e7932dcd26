"""Searches by words of prompts, filters and similar images. Torch-free."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.images.decode import open_rgb
from finetune.records.database import COLUMNS
from finetune.records.filters import Condition, read_filter, search_words
from finetune.records.image_file import codes_bytes, read_codes
from finetune.similarity.codes import meetings

Row = dict[str, Any]
LARGEST_DIFFERENCE = 80
"""Bits of 256. Of 60 unrelated images the closest differed by 90, one cut by a tenth at each side by 38."""


@dataclass(frozen=True)
class Found:
    """Rows of a search, and how many there are in all."""

    rows: list[Row]
    """Columns by name, `scores.NAME` for each score, and `difference` where images were compared."""
    total: int


def search(
    connection: sqlite3.Connection,
    *,
    words: str | None = None,
    filters: Sequence[str] = (),
    like: Path | None = None,
    num: int | None = None,
) -> Found:
    """Find images, the newest or the most similar first. Returns at most `num` rows."""
    wanted = None if like is None else look_up(like)
    connection.create_function("folded", 1, folded, deterministic=True)
    conditions = [read_filter(each) for each in filters]
    if words is not None:
        matches = "images.id IN (SELECT rowid FROM words WHERE words MATCH ?)"
        conditions.append(Condition(matches, [search_words(words)]))
    where = " AND ".join(each.sql for each in conditions) or "1"
    values = [value for each in conditions for value in each.values]
    if wanted is None:
        total = connection.execute(f"SELECT count(*) FROM images WHERE {where}", values).fetchone()[0]
        limited = f"{where} ORDER BY time DESC, path LIMIT ?"
        found = select(connection, limited, [*values, -1 if num is None else num])
        return Found(found, total)
    stored = connection.execute(f"SELECT path, codes FROM images WHERE {where}", values).fetchall()
    distances = code_distances(wanted, read_codes([codes for _, codes in stored]))
    pairs = zip(distances.tolist(), stored, strict=True)
    near = sorted((distance, path) for distance, (path, _) in pairs if distance <= LARGEST_DIFFERENCE)
    rows = []
    for distance, path in near[:num]:
        rows += [row | {"difference": distance} for row in select(connection, "path = ?", [path])]
    return Found(rows, len(near))


def select(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Row]:
    """Read rows with their scores."""
    found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM images WHERE {where}", values).fetchall()
    rows: list[Row] = [dict(zip(COLUMNS, each, strict=True)) for each in found]
    for row in rows:
        scores = "SELECT name, value, image FROM scores WHERE path = ? ORDER BY name"
        for name, value, own in connection.execute(scores, [row["path"]]):
            row[f"scores.{name}"] = value
            if own is not None:
                row[f"scores.{name}.image"] = own
    return rows


def folded(text: object) -> str | None:
    """Remove the case of a text; None stays none."""
    return None if text is None else str(text).casefold()


def look_up(path: Path) -> np.ndarray:
    """Compute the codes [12 4] of the image that others are compared with."""
    try:
        image = open_rgb(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"like: {path} cannot be read as an image ({reason}). Give an image file.") from error
    return read_codes([codes_bytes(image)])[0]


def code_distances(wanted: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the smallest distances [N] of an image's codes to others. Codes are [12 4] and [N 12 4]."""
    smallest = np.full(len(codes), 256)
    for ones, others in meetings(len(wanted)):
        for first, second in ((ones, others), (others, ones)):  # which of both was cropped is not known
            for one in first:
                for other in second:
                    bits = np.bitwise_count(wanted[one] ^ codes[:, other]).sum(-1, dtype=np.int64)
                    smallest = np.minimum(smallest, bits)
    return smallest
