"""Listings and text files of a prepared folder."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets_prep.output.images import Row
from finetune.files import put_in_place, sync, unfinished

SIDE_COLUMNS = ("text", "width", "height", "bucket", "sha256", "source", "caption_from")


def write_sidecars(output: Path, rows: Sequence[Row]) -> list[str]:
    """Write one .txt per image, one line per caption; return names."""
    names = [os.path.splitext(str(row["file_name"]))[0] + ".txt" for row in rows]
    for name, row in zip(names, rows, strict=True):
        write_text(output / name, "".join(" ".join(caption.split()) + "\n" for caption in captions_of(row)))
    return names


def write_side_listings(output: Path, rows: Sequence[Row]) -> list[str]:
    """Write metadata.jsonl into train/ and validation/; return the names. `load_dataset` looks for it there. They have
    the columns that every row has, because both must have the same; OUTPUT/metadata.jsonl has the rest."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        folder, _, name = str(row["file_name"]).partition("/")
        side = {"file_name": name, "split": folder} | {column: row[column] for column in SIDE_COLUMNS}
        texts.setdefault(folder, []).extend(lines([side], is_ascii=False))
    for folder, listed in texts.items():
        write_text(output / folder / "metadata.jsonl", "".join(listed))
    return [f"{folder}/metadata.jsonl" for folder in texts]


def captions_of(row: Row) -> list[str]:
    """List the caption to train on first, then the others."""
    others = row.get("captions_alt")
    return [str(row["text"]), *(map(str, others) if isinstance(others, list) else [])]


def lines(rows: Sequence[Row], *, is_ascii: bool) -> Iterator[str]:
    """Yield one JSON object per line. ASCII can also hold names that are not UTF-8."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=is_ascii) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, unless it has that text already."""
    data, temporary = text.encode("utf-8"), unfinished(path)
    if path.exists() and path.read_bytes() == data:
        temporary.unlink(missing_ok=True)  # of a killed run
        return
    temporary.write_bytes(data)
    sync(temporary)
    put_in_place(temporary, path)


def write_listing(path: Path, rows: Sequence[Row], *, is_ascii: bool) -> str:
    """Write a listing beside its final place; return its SHA-256. `put_in_place` follows."""
    digest = hashlib.sha256()
    with open(unfinished(path), "wb") as file:
        for line in lines(rows, is_ascii=is_ascii):
            data = line.encode("utf-8")
            digest.update(data)
            file.write(data)
    sync(unfinished(path))
    return digest.hexdigest()
