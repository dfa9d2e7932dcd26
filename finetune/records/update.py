"""Records taken from one run folder or all of them. Torch-free."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune.plurals import first_few, plural
from finetune.records.database import (
    COLUMNS,
    FILE,
    HIDDEN,
    SCORE_COLUMNS,
    connected,
    drop_tables,
    explaining,
    make_tables,
    opened,
    refuse_others,
    writing_to,
)
from finetune.records.folders import ListedImage, image_folders, listed_images
from finetune.records.image_file import (
    ImageFile,
    as_text,
    as_whole,
    read_image_file,
    read_settings,
)
from finetune.report.rows import finite

Row = dict[str, Any]
"""The columns of an image by name, with its scores as (name, value, low, high, image)."""
NAMES = (*COLUMNS, *HIDDEN)
INSERT = f"INSERT INTO images ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))})"
INSERT_SCORE = "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Changes:
    """Changes that an update of the records found."""

    num_added: int = 0
    num_changed: int = 0
    num_removed: int = 0
    unreadable: Sequence[str] = field(default_factory=list[str])
    """One sentence per image that is left out."""

    def sentences(self) -> list[str]:
        """Say what changed; nothing where nothing did."""
        numbers = ((self.num_added, "added"), (self.num_changed, "changed"), (self.num_removed, "removed"))
        parts = [f"{num:,} {what}" for num, what in numbers if num]
        found = [f"Records: {', '.join(parts)}."] if parts else []
        if self.unreadable:
            num = plural(len(self.unreadable), "image")
            found.append(f"warning: {num} cannot be read and left out: {first_few(self.unreadable)}")
        return found


def update_records(folder: Path, run: Path, warn: Callable[[str], None]) -> Path | None:
    """Take the images of a run into the records beside it. No fault stops the run: it is a warning, and the result is
    None instead of the file."""
    try:
        with opened(folder / FILE) as records:
            changes = take_in(records, folder, run)
        if changes.unreadable:
            warn(changes.sentences()[-1].removeprefix("warning: "))
        return folder / FILE
    except (ValueError, OSError) as error:
        warn(f"{error} The run is complete without it.")
        return None


def rebuild_records(folder: Path) -> tuple[Changes, Path | None]:
    """Make the records again from the run folders alone. A damaged file is kept under the returned name."""
    path, aside = folder / FILE, None
    if path.exists() and is_damaged(path):
        aside = free_name(path.with_name(f"{FILE}.damaged"))
        path.rename(aside)
    rows, _ = read_folders(folder, None, {})
    with explaining(path), contextlib.closing(connected(path)) as connection:
        with writing_to(connection):
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                refuse_others(connection, path, any_version=True)
            drop_tables(connection)
            make_tables(connection, path)
            replace_rows(connection, rows, [])
        later = take_in(connection, folder)  # of runs that ended meanwhile
    return replace(later, num_added=len(rows) + later.num_added), aside


def is_damaged(path: Path) -> bool:
    """Check whether SQLite can read a file as a whole."""
    connection = connected(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # as where another process writes
            raise ValueError(f"records: {path} cannot be read ({error}). Run the command again.") from error
        return True
    finally:
        connection.close()


def free_name(path: Path) -> Path:
    """Find a name that no file has."""
    number, found = 2, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}-{number}")
    return found


def take_in(connection: sqlite3.Connection, folder: Path, run: Path | None = None) -> Changes:
    """Take in what is new, changed or gone in the run folders. With `run` only that one. Known files are not read."""
    known = read_rows(connection, run)
    rows, unreadable = read_folders(folder, run, known)
    changed = {path: row for path, row in rows.items() if known.get(path) != row}
    gone = [path for path in known if path not in rows]
    if changed or gone:
        with writing_to(connection):
            replace_rows(connection, changed, gone)
    num_changed = sum(path in known for path in changed)
    return Changes(len(changed) - num_changed, num_changed, len(gone), unreadable)


def read_folders(folder: Path, run: Path | None, known: Mapping[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """Make the rows of all images. Those that cannot be read get a sentence each. Nothing is locked meanwhile."""
    unreadable: list[str] = []
    rows: dict[str, Row] = {}
    for name, place in image_folders(folder, run):
        for listed in listed_images(name, place):
            path = f"{name}/{listed.path.relative_to(place).as_posix()}"
            try:
                path.encode()  # no database takes an undecodable name
                rows[path] = row_of(path, listed, known.get(path))
            except (ValueError, OSError) as error:
                unreadable.append(f"{ascii(path)[1:-1]} ({error})")
    return rows, unreadable


def replace_rows(connection: sqlite3.Connection, changed: Mapping[str, Row], gone: Sequence[str]) -> None:
    """Replace rows. Another process may have written the same ones since they were read."""
    connection.executemany("DELETE FROM images WHERE path = ?", [(path,) for path in [*gone, *changed]])
    connection.executemany(INSERT, [[row[name] for name in NAMES] for row in changed.values()])
    scores = [(path, *score) for path, row in changed.items() for score in row["scores"]]
    connection.executemany(INSERT_SCORE, scores)


def read_rows(connection: sqlite3.Connection, run: Path | None = None) -> dict[str, Row]:
    """Read all rows by path. With `run` only those of that folder are read."""
    where, values = ("", ()) if run is None else ("WHERE path >= ? AND path < ?", (f"{run.name}/", f"{run.name}0"))
    images = connection.execute(f"SELECT {', '.join(NAMES)} FROM images {where}", values)
    found: dict[str, Row] = {values[0]: dict(zip(NAMES, values, strict=True)) | {"scores": []} for values in images}
    columns = ", ".join(("path", "name", *SCORE_COLUMNS))
    for path, *score in connection.execute(f"SELECT {columns} FROM scores {where} ORDER BY path, name", values):
        if path in found:
            found[path]["scores"].append(tuple(score))
    return found


def row_of(path: str, listed: ListedImage, known: Row | None) -> Row:
    """Make the row of an image. A known file that was not replaced is not read again."""
    status = listed.path.stat()
    if known is not None and (known["file_bytes"], known["file_time"]) == (status.st_size, status.st_mtime_ns):
        file = ImageFile(**{name: known[name] for name in ImageFile.__dataclass_fields__})
    else:
        file = read_image_file(listed.path)
    own = read_settings(file.settings)
    adapters = own.get("adapters")
    adapters = [each for each in adapters if isinstance(each, dict)] if isinstance(adapters, list) else []
    strength = finite(own.get("strength"))
    if strength is None and len(adapters) == 1:
        strength = finite(adapters[0].get("strength"))
    seconds = file.file_time / 1e9
    said: Row = {
        "prompt": as_text(own.get("prompt")),
        "negative_prompt": as_text(own.get("negative_prompt")),
        "seed": as_whole(own.get("seed")),
        "num_inference_steps": as_whole(own.get("num_inference_steps")),
        "guidance_scale": finite(own.get("guidance_scale")),
        "sampler": as_text(own.get("sampler")),
        "strength": strength,
        "base_model": as_text(own.get("model")),
        "target": as_text(own.get("target")),
    }
    facts = {name: value if vars(listed)[name] is None else plain(vars(listed)[name]) for name, value in said.items()}
    return {
        **facts,
        "path": path,
        "run": listed.run,
        "kind": listed.kind,
        "step": listed.step,
        "prompt": facts["prompt"] or "",
        "adapters": as_text(json.dumps(adapters, ensure_ascii=False)),
        "time": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}",
        **vars(file),
        "scores": sorted((as_text(name), *vars(score).values()) for name, score in listed.scores.items()),
    }


def plain(value: object) -> object:
    """Make text fit for a database."""
    return as_text(value) if isinstance(value, str) else value
