"""Lists the files of a folder, and tells of each whether it is a usable picture or why not."""

import hashlib
import io
import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from finetune.data.entries import Findings
from finetune.data.folder import UNREAD_SUFFIXES, FolderSource
from finetune.data.images import FORMATS, open_rgb

Reason = Literal[
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "decode_error",
    "too_many_pixels",
    "too_small",
    "unreadable",
    "not_a_file",
    "exact_duplicate",
]

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}  # other formats are called as their suffix is


@dataclass(frozen=True)
class Item:
    """A regular file of the source, and what tells whether it has changed."""

    source: str
    """POSIX path relative to the source folder."""
    num_bytes: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True)
class Picture:
    """A file that decodes."""

    source: str
    sha256: str
    width: int
    height: int
    suffix: str
    """By its content, with the dot."""
    colour_warning: str | None

    @property
    def file_name(self) -> str:
        """Its path in the result. Its content's hash: no name collides, and none holds a word like "test", which
        load_dataset takes for a split."""
        return f"images/{self.sha256[:32]}{self.suffix}"


@dataclass(frozen=True)
class Rejected:
    """What is left out; the fields are the columns of rejected.jsonl."""

    source: str
    reason: Reason
    detail: str
    duplicate_of: str | None = None
    score: float | None = None


def walk(root: str, skipped: Iterable[Path], findings: Findings) -> tuple[list[Item], list[Rejected]]:
    """Returns the regular files, sorted by the bytes of their paths, and what else there is, which cannot be read.

    Each real folder is entered once, so loops of links end; links to folders come last, so files keep their real path.
    The folders `skipped` are not entered. Hidden names are only noted.
    """
    items, rejected, folders, links = [], [], [""], []
    entered = {_identity(os.stat(path)) for path in skipped if path.exists()}
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(os.stat(os.path.join(root, folder)))
            names = [] if identity in entered else os.listdir(os.path.join(root, folder))
        except OSError as error:
            rejected.append(Rejected(folder or ".", "unreadable", f"folder cannot be listed: {error.strerror}"))
            continue
        entered.add(identity)
        for name in sorted(names, key=os.fsencode, reverse=True):
            source = posixpath.join(folder, name)
            path = os.path.join(root, source)
            if name.startswith("."):
                findings.warn("hidden files and folders, which are not looked at", source)
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                rejected.append(Rejected(source, "unreadable", str(error.strerror)))
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if os.path.islink(path) else folders).append(source)
            elif not stat.S_ISREG(status.st_mode):
                rejected.append(Rejected(source, "not_a_file", "a pipe, socket or device"))
            elif not _is_unicode(source):  # load_dataset would refuse the whole listing because of one such name
                rejected.append(Rejected(source, "unreadable", "its path is not UTF-8; rename it"))
            else:
                items.append(Item(source, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return sorted(items, key=lambda item: os.fsencode(item.source)), rejected


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def take(root: str, source: str, output: str, min_side: int) -> Picture | Rejected:
    """Reads a file once; copies its bytes into the folder `output` if they are a usable picture."""
    try:
        data = FolderSource(root).read(source)
    except (OSError, ValueError) as error:
        return Rejected(source, "unreadable", str((error.strerror if isinstance(error, OSError) else None) or error))
    try:
        image = open_rgb(data)
    except ValueError as error:
        return Rejected(source, _reason(str(error), data, posixpath.splitext(source)[1].lower()), str(error))
    if min(image.size) < min_side:
        return Rejected(source, "too_small", f"{image.width} x {image.height}, expected sides of {min_side} or more")
    kind = str(Image.open(io.BytesIO(data), formats=FORMATS).format)
    suffix = SUFFIXES.get(kind, f".{kind.lower()}")
    sha256, warning = hashlib.sha256(data).hexdigest(), image.info.get("colour_warning")
    picture = Picture(source, sha256, image.width, image.height, suffix, warning)
    with open(os.path.join(output, picture.file_name), "wb") as file:  # a copy at the same time writes the same bytes
        file.write(data)
    return picture


def _reason(message: str, data: bytes, suffix: str) -> Reason:
    """What `open_rgb` said, as one word."""
    if not data:
        return "empty_file"
    if message.startswith("too many pixels"):
        return "too_many_pixels"
    if message.startswith("no pixels"):
        return "too_small"
    if message.startswith(("cut short", "damaged", "its pixels")):
        is_short_webp = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
        is_short = message.startswith("cut short:") or "truncated" in message.lower() or is_short_webp
        return "truncated" if is_short else "decode_error"
    return "unsupported_format" if message.startswith("HEIC") or suffix in UNREAD_SUFFIXES else "not_an_image"
