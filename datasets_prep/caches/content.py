"""A cache of bytes in a SQLite file."""

import sqlite3
import time
from pathlib import Path

from finetune.data.listing import Findings

SECONDS_BETWEEN_COMMITS = 5.0
"""The most work that is lost when a run is killed."""


class ContentCache:
    """Key -> bytes. A file that cannot be read is counted, removed and made again, as its content can be."""

    def __init__(self, path: Path, findings: Findings) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._findings = path, findings
        self._committed = time.monotonic()
        try:
            self._database = self._opened()
        except sqlite3.DatabaseError:
            self._database = self._made_again()

    def _opened(self) -> sqlite3.Connection:
        if not self._path.exists():
            self._path.touch()  # with the umask's mode; SQLite alone takes away the group's right to write
        database = sqlite3.connect(self._path)
        try:
            database.execute("PRAGMA synchronous = OFF")  # a power cut may damage the file, which is then made again
            database.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            database.execute("SELECT value FROM kept LIMIT 1").fetchone()
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _made_again(self) -> sqlite3.Connection:
        self._findings.warn("damaged caches, which are made again", self._path.name)
        for path in (self._path, self._path.with_name(self._path.name + "-journal")):
            path.unlink(missing_ok=True)
        return self._opened()

    def get(self, key: str) -> bytes | None:
        try:
            row = self._database.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError:
            self._database.close()
            self._database = self._made_again()
            return None
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        try:
            self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))
            if time.monotonic() - self._committed > SECONDS_BETWEEN_COMMITS:
                self._database.commit()
                self._committed = time.monotonic()
        except sqlite3.DatabaseError as error:
            raise OSError(f"{self._path}: {error}. Remove that file and run the same command again.") from error

    def close(self) -> None:
        self._database.commit()
        self._database.close()
