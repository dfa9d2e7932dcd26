"""Files below a URL: listed, read in ranges, written. Failed requests are repeated."""

import functools
import io
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from finetune.extras import install_command
from finetune.plurals import first_line

Result = TypeVar("Result")

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://.+")
"""Two letters at least, unlike a drive of Windows."""
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a request."""
STAMPS = ("ETag", "etag", "md5Hash", "blob_id", "updated", "mtime", "LastModified", "created")
"""What kinds of storage call the mark of a file's content, the best first."""
PACKAGES = {"s3": "s3", "s3a": "s3", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Extras or packages that read a protocol."""
HOPELESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidRegionError")
"""Errors of botocore that no further try mends."""
BLOCK = 8 * 2**20
BOUNDED = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
"""Settings of botocore where a run waits for storage that may never answer."""


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
    option: str = "data.folder"
    """What errors call the URL."""
    waits: tuple[float, ...] | None = None
    """Seconds between the tries of a request; none is `WAITS`."""

    def files(self) -> list[RemoteFile]:
        """List the visible files, sorted by the bytes of their names."""
        return [file for file in self.all_files() if not is_hidden(file.name)]

    def all_files(self) -> list[RemoteFile]:
        """List all files, hidden ones too, sorted by their names' bytes. The empty files that consoles make for
        folders are omitted."""
        system, root = self._opened()
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._tried("", lambda: system.find(root, detail=True))
        files: list[RemoteFile] = []
        for path, facts in found.items():
            name = path.removeprefix(root).removeprefix("/") or path.rpartition("/")[2]
            if not name.endswith("/"):
                files.append(_described(name, facts))
        return sorted(files, key=lambda file: os.fsencode(file.name))

    def file(self, name: str) -> RemoteFile:
        """Look up one file as it is now."""
        system, root = self._opened()

        def facts() -> dict[str, Any]:
            system.invalidate_cache()
            return system.info(_path(root, name))

        return _described(name, self._tried(name, facts))

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of a range. Raises StorageError with the URL where several tries failed."""
        system, root = self._opened()

        def whole() -> bytes:
            data = system.cat_file(_path(root, name), start=start, end=stop)
            if len(data) != stop - start:
                raise ValueError(f"{len(data):,} of {stop - start:,} bytes came back; was the file replaced?")
            return data

        return self._tried(name, whole) if stop > start else b""

    def read_whole(self, name: str) -> bytes:
        """Return the bytes of a small file."""
        system, root = self._opened()
        return self._tried(name, lambda: system.cat_file(_path(root, name)))

    def copy(self, name: str, file: Path) -> None:
        """Copy a file of any size to this machine."""
        system, root = self._opened()
        self._tried(name, lambda: system.get_file(_path(root, name), str(file)))

    def open(self, file: RemoteFile) -> "RangeFile":
        """Open a file, of which only the wanted ranges are read."""
        return RangeFile(self, file)

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file, whole or not at all. The content may be that of a file on this machine."""
        system, root = self._opened()
        path = _path(root, name)
        if isinstance(content, Path):
            self._tried(name, lambda: system.put_file(str(content), path), "written")
        else:
            self._tried(name, lambda: system.pipe_file(path, content), "written")

    def remove(self, name: str) -> None:
        """Remove a file."""
        system, root = self._opened()
        self._tried(name, lambda: system.rm_file(_path(root, name)), "removed")

    def _opened(self) -> tuple[Any, str]:
        return _opened(self.url, self.option, os.getpid(), is_bounded=self.waits is not None)

    def _tried(self, name: str, call: Callable[[], Result], done: str = "read") -> Result:
        place = f"{self.url.rstrip('/')}/{name}".rstrip("/")
        for wait in (*(WAITS if self.waits is None else self.waits), None):
            try:
                return call()
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{self.option}: {place} is not there. Check the spelling and that nobody removed it, then run the "
                    "same command again."
                ) from error
            except PermissionError as error:
                raise StorageError(
                    f"{self.option}: {place} may not be {done} ({first_line(error)}). Check the credentials, for S3 "
                    "AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and their rights."
                ) from error
            except Exception as error:  # every kind of storage raises errors of its own
                if wait is None or type(error).__name__ in HOPELESS or isinstance(error, MemoryError):
                    raise StorageError(
                        f"{self.option}: {place} could not be {done} ({first_line(error)}). Check network, endpoint "
                        "and credentials, for S3 AWS_ENDPOINT_URL and AWS_PROFILE or AWS_ACCESS_KEY_ID, then run the "
                        "same command again; it continues."
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


def is_hidden(name: str) -> bool:
    """Check whether a part of a name begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def contain_each_other(url: str, other: str) -> bool:
    """Tell if one URL is the other or above it."""
    one, two = (PurePosixPath(_place(each)) for each in (url, other))
    return one.is_relative_to(two) or two.is_relative_to(one)


def _place(url: str) -> str:
    """Return a URL without what may be written in several ways."""
    protocol, _, place = url.partition("://")
    return f"{protocol.lower().replace('s3a', 's3')}/{place}"


def _path(root: str, name: str) -> str:
    """Return a file's path in its file system."""
    return f"{root.rstrip('/')}/{name}"


def _described(name: str, facts: dict[str, Any]) -> RemoteFile:
    stamp = next((facts[each] for each in STAMPS if facts.get(each)), "")
    text = str(stamp.timestamp() if isinstance(stamp, datetime) else stamp)  # as some kinds list it
    return RemoteFile(name, int(facts["size"] or 0), text)


@functools.lru_cache(maxsize=8)
def _opened(url: str, option: str, process: int, *, is_bounded: bool = False) -> tuple[Any, str]:
    """Open the file system of a URL once per process. Connections are not inherited. Also returns the path
    in it."""
    import fsspec

    protocol = url.partition("://")[0]
    settings = {"config_kwargs": BOUNDED} if is_bounded and protocol in ("s3", "s3a") else {}
    try:
        return fsspec.core.url_to_fs(url, skip_instance_cache=True, **settings)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        advice = f"Run: {install_command(package)}" if package else f"Install what reads it: {first_line(error)}"
        raise ValueError(f"{option}: {url} needs a package that is not installed. {advice}") from error
    except ValueError as error:
        raise ValueError(
            f"{option}: {url} has the protocol {protocol}, expected one that fsspec knows, such as s3. Check the "
            "spelling."
        ) from error
