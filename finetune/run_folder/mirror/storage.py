"""The storage of a mirror: files written, replaced and removed."""

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from finetune.data.remote.storage import Storage

OPTION = "output.mirror"


@dataclass(frozen=True)
class MirrorStorage:
    """Files below the URL of a mirror."""

    url: str
    waits: tuple[float, ...] | None = None
    """Seconds between the tries of a request; none is the usual ones."""

    @property
    def reading(self) -> Storage:
        return Storage(self.url, OPTION, self.waits)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files by name."""
        return {file.name: file.size for file in self.reading.files()}

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, which is replaced as a whole."""
        self.reading.write(name, data)

    def put(self, name: str, file: Path) -> None:
        """Copy a file of any size."""
        file.stat()  # one that is gone here is not taken for a bucket that is missing there
        self.reading.write(name, file)

    def remove(self, name: str) -> None:
        """Remove a file, which may be gone."""
        with contextlib.suppress(FileNotFoundError):
            self.reading.remove(name)

    def refuse_unwritable(self) -> None:
        """Write a small file and remove it. Raises StorageError where that is refused."""
        name = f".probe-{secrets.token_hex(8)}"
        self.write(name, b"a try of the permission to write")
        self.remove(name)
