"""Lists the pictures and captions of a folder: metadata.jsonl, metadata.csv, or text files beside the pictures."""

import codecs
import csv
import io
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetune.config_mask import NO_MASKS, MaskConfig
from finetune.data.entries import Entry, Findings, first_few, read_captions, read_repeats, read_split, read_weight
from finetune.data.images import PLUGINS, readable_formats
from finetune.extras import install_command

# fmt: off
PICTURE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi",
))
UNREAD_SUFFIXES = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".tga", ".ico", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".raf",
))
# fmt: on
PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}  # as Pillow calls their formats
SIDECAR_SUFFIXES = (".txt", ".caption")
MASK_SUFFIX = "-masklabel"
"""NAME-masklabel.png is the mask of NAME.jpg; OneTrainer's name for it."""
MAX_FILE_BYTES = 500_000_000


@dataclass(frozen=True)
class FolderSource:
    """Reads pictures of a folder."""

    root: str

    def read(self, file_name: str) -> bytes:
        """Returns a file's bytes; refuses pipes, devices and folders, which could block for ever, and huge files."""
        path = os.path.join(self.root, file_name)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"{status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()


def read_folder(
    root: str,
    shown: str,
    caption_column: str,
    findings: Findings,
    prepare: str,
    captions: Literal["listed", "folder", "none"] = "listed",
    mask: MaskConfig = NO_MASKS,
) -> list[Entry]:
    """Returns what a folder lists; ValueError where it holds no pictures or no captions at all, anything else is noted.

    `shown` is the folder as the user wrote it, `prepare` the command that makes a usable one. Captions are listed with
    the pictures, or are the names of the folders these lie in, or empty. Masks are no pictures: NAME-masklabel.png
    beside a NAME.jpg, and what lies in mask.folder.
    """
    files = visible_files(root, findings)
    pictures = [name for name in files if is_picture_name(name)]
    masks = _masks_among(pictures, root, mask)
    if mask.kind != "file":
        for name in sorted(masks, key=os.fsencode):
            findings.warn(f"masks that are not used because mask.kind is {mask.kind}", name)
    pictures = [name for name in pictures if name not in masks]
    sidecars = [name for name in files if _suffix(name) in SIDECAR_SUFFIXES]
    unread = [name for name in files if _suffix(name) in UNREAD_SUFFIXES and not _is_read(_suffix(name))]
    for name in unread:
        findings.warn(_why_unread(_suffix(name)), name)
    listings = [name for name in ("metadata.jsonl", "metadata.csv") if name in files]
    if captions != "listed":
        for name in [*listings, *sidecars]:
            findings.warn(f"captions that are not read because data.captions is {captions}", name)
    elif listings:
        if len(listings) > 1:
            findings.warn("listings that are not read because metadata.jsonl is there", listings[1])
        for name in sidecars:
            findings.warn(f"text files that are not read because {listings[0]} is there", name)
        entries = read_listing(root, shown, listings[0], caption_column, findings)
        listed = {entry.file_name for entry in entries}
        for name in pictures:
            if name not in listed:
                findings.warn(f"pictures that {listings[0]} does not mention, which are not used", name)
        return entries
    if not pictures:
        findings.raise_errors(f"data.folder: {shown} cannot be read:", "Check the permissions.")
        raise ValueError(
            f"data.folder: there are no pictures in {shown}. Expected metadata.jsonl, or pictures with .txt captions. "
            "Put them there, or prepare others: python -m datasets_prep --source FOLDER --output PREPARED"
            + (f"\nSave these as PNG or JPEG, their format is not read: {first_few(unread)}" if unread else "")
        )
    if captions == "none":
        return [Entry(name, ("",)) for name in pictures]
    if captions == "folder":
        return [_named_by_folder(name, findings) for name in pictures]
    stems = {_stem(name) for name in pictures}
    if not any(_stem(name) in stems for name in sidecars):
        below = [name for name in files if posixpath.basename(name) in ("metadata.jsonl", "metadata.csv")]
        raise ValueError(
            f"data.folder: {shown} holds {len(pictures):,} pictures but no captions: no metadata.jsonl, and no .txt or "
            f".caption file beside a picture. Run: {prepare}"
            + (f"\nOr give a folder further down that has them: {first_few(below)}" if below else "")
        )
    return _read_sidecars(root, pictures, sidecars, findings)


def is_picture_name(name: str) -> bool:
    """True for a name that ends as pictures do whose format is read."""
    return _is_read(_suffix(name))


def _masks_among(names: list[str], root: str, mask: MaskConfig) -> set[str]:
    stems = {_stem(name) for name in names}
    found = {name for name in names if _stem(name).endswith(MASK_SUFFIX) and _stem(name)[: -len(MASK_SUFFIX)] in stems}
    if mask.folder is not None:
        folder = os.path.relpath(os.path.abspath(mask.folder), root)
        found |= {name for name in names if folder == posixpath.dirname(name) or name.startswith(f"{folder}/")}
    return found


def _is_read(suffix: str) -> bool:
    if suffix in PLUGIN_SUFFIXES:
        return PLUGIN_SUFFIXES[suffix] in readable_formats()
    return suffix in PICTURE_SUFFIXES


def _why_unread(suffix: str) -> str:
    if suffix not in PLUGIN_SUFFIXES:
        return "pictures in a format that is not read; save them as PNG or JPEG to use them"
    command = install_command(PLUGINS[PLUGIN_SUFFIXES[suffix]][1])
    return f"images whose format is not read. Run: {command}, or save them as PNG or JPEG"


def _named_by_folder(name: str, findings: Findings) -> Entry:
    folder = posixpath.basename(posixpath.dirname(name)).replace("_", " ").strip()
    if not folder:
        findings.error("pictures that lie in no class's folder", name)
    return Entry(name, (folder,))


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def visible_files(root: str, findings: Findings) -> list[str]:
    """Returns the POSIX paths of all visible files, sorted by bytes; each real folder is entered once, so that loops of
    links end."""
    names, entered, pending = [], set(), [""]
    while pending:
        folder = pending.pop()
        path = os.path.join(root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as children:
                for child in sorted(children, key=lambda child: os.fsencode(child.name), reverse=True):
                    if not child.name.startswith("."):
                        name = posixpath.join(folder, child.name)
                        (pending if _is_folder(child) else names).append(name)
        except OSError as error:
            findings.error("folders that cannot be read", f"{folder or '.'} ({error.strerror})")
    return sorted(names, key=os.fsencode)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def decode_text(data: bytes) -> tuple[str, bool]:
    """Returns the text of UTF-8 or UTF-16 bytes, and whether neither fitted and Latin-1 was taken."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.count(0) * 4 > len(data):  # UTF-16 without its mark: every other byte of plain text is zero
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding), False
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


def _read_text(root: str, name: str, findings: Findings) -> str | None:
    try:
        text, is_guess = decode_text(FolderSource(root).read(name))
    except OSError as error:
        findings.error("text files that cannot be read", f"{name} ({error.strerror})")
        return None
    except ValueError as error:
        findings.error("text files that cannot be read", f"{name} ({error})")
        return None
    if is_guess:
        findings.warn("text files in neither UTF-8 nor UTF-16, read as Latin-1", name)
    return text


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\n|\r", text)  # not splitlines(), which also splits at characters that JSON strings may hold


def _read_sidecars(root: str, pictures: list[str], sidecars: list[str], findings: Findings) -> list[Entry]:
    texts: dict[str, list[str]] = {}
    stems = {_stem(name) for name in pictures}
    for name in sorted(sidecars, key=lambda name: SIDECAR_SUFFIXES.index(_suffix(name))):
        stem = _stem(name)
        if stem not in stems:
            findings.warn("text files without a picture of the same name", name)
        else:
            text = _read_text(root, name, findings)
            if text is not None:
                texts.setdefault(stem, []).extend(line for line in _lines(text) if line.strip())
    return [Entry(name, read_captions([*texts.get(_stem(name), [])], name, findings)) for name in pictures]


def read_listing(root: str, shown: str, listing: str, caption_column: str, findings: Findings) -> list[Entry]:
    """Returns the pictures that metadata.jsonl or metadata.csv in the folder `root` lists, relative to it.

    Notes what is wrong with single lines; ValueError where there is no usable one, or no column of that name.
    """
    text = _read_text(root, listing, findings)
    rows = _json_rows(text or "", findings) if listing.endswith(".jsonl") else _csv_rows(text or "", findings)
    entries: dict[str, Entry] = {}
    columns: dict[str, None] = {}
    for line, row in rows:
        columns |= dict.fromkeys(row)
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            findings.error("lines without a file_name", f"line {line}")
            continue
        if _escapes(name):
            findings.error(
                "file names that lead out of the folder (absolute, .. or an address)", f"line {line}: {name}"
            )
            continue
        where = name = posixpath.normpath(name)
        if name in entries:
            findings.error("file names that stand twice", f"{name} (again in line {line})")
            continue
        captions = ()
        if caption_column in row or "captions_alt" in row:
            captions = read_captions([row.get(caption_column), row.get("captions_alt")], where, findings)
        else:
            findings.error("pictures without a caption", where)
        weight, repeats = read_weight(row, where, findings), read_repeats(row, where, findings)
        entries[name] = Entry(name, captions, weight, repeats, read_split(row, where, findings))
    if columns and caption_column not in columns and "captions_alt" not in columns:
        raise ValueError(
            f"data.caption_column: {caption_column!r} is no column of {shown}/{listing}, whose columns are "
            f"{', '.join(columns)}. Set data.caption_column to the one with the captions."
        )
    if not entries:
        findings.raise_errors(f"data.folder: {shown}/{listing} lists no usable picture:", "Correct it and run again.")
        raise ValueError(f"data.folder: {shown}/{listing} is empty, expected one picture a line. Write it again.")
    return list(entries.values())


def _escapes(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or "://" in name or "\0" in name or bool(re.match(r"[A-Za-z]:[/\\]", name))


def _json_rows(text: str, findings: Findings) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                findings.error("lines that are not JSON", f"line {number} ({error})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                findings.error("lines that are not a JSON object", f"line {number}")


def _csv_rows(text: str, findings: Findings) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    try:
        for row in reader:
            values: dict[str, object] = {column: value or None for column, value in row.items()}
            values |= {column: _number(values[column]) for column in ("weight", "repeats") if column in values}
            yield reader.line_num, values
    except csv.Error as error:
        findings.error("lines that are not CSV", f"line {reader.line_num} ({error})")


def _number(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
