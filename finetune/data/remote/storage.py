"""Files below a URL, listed, and read in ranges with further tries."""

import functools
import io
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune.extras import install_command
from finetune.plurals import first_line

Result = TypeVar("Result")

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://.+")
"""Two letters at least, unlike a drive of Windows."""
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a read."""
STAMPS = ("ETag", "etag", "md5Hash", "blob_id", "updated", "mtime", "LastModified", "created")
"""What kinds of storage call the mark of a file's content, the best first."""
PACKAGES = {"s3": "s3", "s3a": "s3", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Extras or packages that read a protocol."""
HOPELESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidRegionError")
"""Errors of botocore that no further try mends."""
BLOCK = 8 * 2**20


class StorageError(OSError):
    """Storage that gave no answer or a wrong one."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its storage lists it."""

    name: str
    """POSIX path relative to the URL."""
    size: int
    stamp: str
    """Changes with the content: an ETag, a hash or a time."""


@dataclass(frozen=True)
class Storage:
    """The files below a URL. Credentials and endpoint come from the environment, as for other programs."""

    url: str

    def files(self) -> list[RemoteFile]:
        """List the visible files, sorted by the bytes of their names."""
        system, root = _opened(self.url, os.getpid())
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._tried("", lambda: system.find(root, detail=True))
        files: list[RemoteFile] = []
        for path, facts in found.items():
            name = path.removeprefix(root).strip("/") or path.rpartition("/")[2]
            if not any(part.startswith(".") for part in name.split("/")):
                stamp = next((str(facts[each]) for each in STAMPS if facts.get(each)), "")
                files.append(RemoteFile(name, int(facts["size"] or 0), stamp))
        return sorted(files, key=lambda file: os.fsencode(file.name))

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of a range. Raises StorageError with the URL where several tries failed."""
        system, root = _opened(self.url, os.getpid())
        path = f"{root.rstrip('/')}/{name}"

        def whole() -> bytes:
            data = system.cat_file(path, start=start, end=stop)
            if len(data) != stop - start:
                raise ValueError(f"{len(data):,} of {stop - start:,} bytes came back; was the file replaced?")
            return data

        return self._tried(name, whole) if stop > start else b""

    def open(self, file: RemoteFile) -> "RangeFile":
        """Open a file, of which only the wanted ranges are read."""
        return RangeFile(self, file)

    def _tried(self, name: str, call: Callable[[], Result]) -> Result:
        place = f"{self.url.rstrip('/')}/{name}".rstrip("/")
        for wait in (*WAITS, None):
            try:
                return call()
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"data.folder: {place} is not there. Check the spelling and that nobody removed it, then run the "
                    "same command again."
                ) from error
            except PermissionError as error:
                raise StorageError(
                    f"data.folder: {place} may not be read ({first_line(error)}). Check the credentials, for S3 "
                    "AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and their rights."
                ) from error
            except Exception as error:  # every kind of storage raises errors of its own
                if wait is None or type(error).__name__ in HOPELESS or isinstance(error, MemoryError):
                    raise StorageError(
                        f"data.folder: {place} could not be read ({first_line(error)}). Check network, endpoint and "
                        "credentials, for S3 AWS_ENDPOINT_URL and AWS_PROFILE or AWS_ACCESS_KEY_ID, then run the same "
                        "command again; it continues."
                    ) from error
                print(f"{place}: {first_line(error)}; trying again in {wait:g} s", file=sys.stderr, flush=True)
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


class RangeFile(io.RawIOBase):
    """A remote file for Python and pyarrow. Each read is a request unless its bytes are held."""

    def __init__(self, storage: Storage, file: RemoteFile) -> None:
        super().__init__()
        self._storage, self._file, self._at = storage, file, 0
        self._held = 0, b""

    def hold(self, start: int, stop: int) -> bytes:
        """Read a range, from which later reads within it are served."""
        self._held = start, self._storage.read(self._file.name, start, stop)
        return self._held[1]

    def blocks(self) -> io.BufferedReader:
        """Return the file for reading in order, a block at a time."""
        return io.BufferedReader(self, BLOCK)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        start, stop = self._at, min(self._file.size, self._at + len(buffer))
        first, held = self._held
        if first <= start and stop <= first + len(held):
            data = held[start - first : stop - first]
        else:
            data = self._storage.read(self._file.name, start, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def is_url(folder: str) -> bool:
    """Tell the URL of remote storage from a path."""
    return URL.fullmatch(folder) is not None


@functools.lru_cache(maxsize=8)
def _opened(url: str, process: int) -> tuple[Any, str]:
    """Open the file system of a URL once per process. Connections are not inherited. Also returns the path
    in it."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        advice = f"Run: {install_command(package)}" if package else f"Install what reads it: {first_line(error)}"
        raise ValueError(f"data.folder: {url} needs a package that is not installed. {advice}") from error
    except ValueError as error:
        raise ValueError(
            f"data.folder: {url} has the protocol {protocol}, expected one that fsspec knows, such as s3. Check the "
            "spelling."
        ) from error
