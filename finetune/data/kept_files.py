"""Keep the bytes of image files until the caches are full. Each file is read and hashed once."""

import hashlib
import os
import threading
from pathlib import Path

from finetune.data.listing import ImageSource
from finetune.plurals import first_few

MOST_BYTES = 2**30
"""What the processes of a machine keep together; a file beyond that is read and hashed again where it is needed."""


class KeptFiles:
    """Files by their hash, up to a limit of bytes. Without a limit none is kept.

    `cache` is the folder for what later runs need again, such as indexes of remote images; None is the usual one.
    """

    def __init__(self, most_bytes: int = 0, cache: Path | None = None) -> None:
        self.cache = cache
        self._files: dict[str, bytes] = {}
        self._free = most_bytes
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["KeptFiles"], tuple[()]]:
        return KeptFiles, ()  # other processes read for themselves

    def add(self, data: bytes) -> str:
        """Hash a file's bytes, and keep them where there is room."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self._lock:
            if sha256 not in self._files and len(data) <= self._free:
                self._free -= len(data)
                self._files[sha256] = data
        return sha256

    def read(self, source: ImageSource, file_name: str, sha256: str) -> bytes:
        """Return a listed file's bytes. Raises ValueError where they were dropped and the file is gone or has
        changed."""
        data = self._files.get(sha256)
        if data is not None:
            return data
        name = first_few((file_name,))
        try:
            data = source.read(file_name)
        except FileNotFoundError as error:
            raise ValueError(
                f"{name} was removed while the run was going. Put it back and run the same command again."
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{name} was changed while the run was going; run the same command again")
        return data

    def release(self) -> None:
        """Drop all files."""
        self._files.clear()


def kept_files(cache: Path | None = None) -> KeptFiles:
    """Return the empty store of one of this machine's training processes."""
    return KeptFiles(MOST_BYTES // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), cache)
