"""The SQLite file of records: tables, opening and errors. Torch-free."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

FILE = "records.sqlite"
APPLICATION_ID = 0x5DF17E00
"""In the file's header, so another program's file is never written to."""
VERSION = 1
LOCK_SECONDS = 15.0
"""Patience with another process that writes. Each writes for far less."""
COLUMNS = {
    "path": "TEXT NOT NULL UNIQUE",
    "run": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",
    "step": "INTEGER",
    "target": "TEXT",
    "prompt": "TEXT NOT NULL",
    "negative_prompt": "TEXT",
    "seed": "INTEGER",
    "width": "INTEGER NOT NULL",
    "height": "INTEGER NOT NULL",
    "num_inference_steps": "INTEGER",
    "guidance_scale": "REAL",
    "sampler": "TEXT",
    "strength": "REAL",
    "base_model": "TEXT",
    "adapters": "TEXT NOT NULL",
    "sha256": "TEXT NOT NULL",
    "time": "TEXT NOT NULL",
}
"""What is shown, filtered and exported of an image."""
HIDDEN = {
    "codes": "BLOB NOT NULL",
    "file_bytes": "INTEGER NOT NULL",
    "file_time": "INTEGER NOT NULL",
    "settings": "TEXT",
}
"""What is kept to compare images and to read a file once only."""
SCORE_COLUMNS = ("value", "low", "high", "image")
TABLES = (
    f"CREATE TABLE images (id INTEGER PRIMARY KEY, {', '.join(f'{k} {v}' for k, v in (COLUMNS | HIDDEN).items())})",
    f"CREATE TABLE scores (path TEXT NOT NULL, name TEXT NOT NULL, {', '.join(f'{k} REAL' for k in SCORE_COLUMNS)}, "
    "PRIMARY KEY (path, name)) WITHOUT ROWID",
    "CREATE VIRTUAL TABLE words USING fts5(prompt, negative_prompt, content='images', content_rowid='id', "
    "tokenize='unicode61 remove_diacritics 2')",
    "CREATE TRIGGER added AFTER INSERT ON images BEGIN INSERT INTO words(rowid, prompt, negative_prompt) "
    "VALUES (new.id, new.prompt, new.negative_prompt); END",
    "CREATE TRIGGER removed AFTER DELETE ON images BEGIN INSERT INTO words(words, rowid, prompt, negative_prompt) "
    "VALUES ('delete', old.id, old.prompt, old.negative_prompt); DELETE FROM scores WHERE path = old.path; END",
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the records to read and write. They are made if there are none. SQLite's errors are a ValueError."""
    with explaining(path), contextlib.closing(connected(path)) as found:
        with writing_to(found):
            make_tables(found, path)
        yield found


def connected(path: Path) -> sqlite3.Connection:
    """Connect to a file. Transactions begin and end where the code says so."""
    return sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """Open records that are there. Nothing is written, so the folder may be read-only."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    with explaining(path), contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as found:
        refuse_others(found, path)
        yield found


@contextlib.contextmanager
def writing_to(connection: sqlite3.Connection) -> Iterator[None]:
    """Write as a whole or not at all. Processes take turns."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def make_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file. Raises ValueError for a file of another program or version."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        refuse_others(connection, path)
        return
    for command in TABLES:
        connection.execute(command)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def drop_tables(connection: sqlite3.Connection) -> None:
    """Remove all tables of any version of the records."""
    kinds = [("trigger", "TRIGGER"), ("table", "TABLE")]
    for kind, word in kinds:
        named = "SELECT name FROM sqlite_master WHERE type = ? ORDER BY sql NOT LIKE 'CREATE VIRTUAL%'"
        for (name,) in connection.execute(named, (kind,)).fetchall():
            still = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            if still and not name.startswith("sqlite_"):  # those of the full-text table went with it
                connection.execute(f'DROP {word} "{name}"')


def refuse_others(connection: sqlite3.Connection, path: Path, *, any_version: bool = False) -> None:
    """Raise ValueError unless the file has the records of this version."""
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise ValueError(f"records: {path} is a database of another program. Move it, or rename it.")
    version = pragma(connection, "user_version")
    if version != VERSION and not any_version:
        raise ValueError(
            f"records: {path} has version {version}, expected {VERSION}. Run: finetune records {path.parent} --rebuild"
        )


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Read a number of the file's header."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into sentences. They name the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise explained(error, path) from error


class UnwritableRecordsError(ValueError):
    """The records cannot be written now; they may still be read."""


def explained(error: sqlite3.Error, path: Path) -> ValueError:
    """Translate an error of SQLite. The result says what to do."""
    text = str(error)
    if "no such module" in text:
        return ValueError(
            f"records: the SQLite {sqlite3.sqlite_version} of this Python was built without full-text search "
            f"({text}). Use a Python whose SQLite has FTS5, as those of python.org, Debian and conda have."
        )
    if "locked" in text:
        return UnwritableRecordsError(
            f"records: {path} is in use by another process ({text}). Run again later: finetune records {path.parent}"
        )
    if "readonly" in text or "unable to open" in text:
        return UnwritableRecordsError(
            f"records: {path} cannot be written ({text}). Let this user write to {path.parent}."
        )
    if any(known in text for known in ("not a database", "malformed", "no such")):
        return ValueError(f"records: {path} is damaged ({text}). Run: finetune records {path.parent} --rebuild")
    return ValueError(f"records: {path} could not be used ({text}). Make room or mend the disk, then run it again.")
