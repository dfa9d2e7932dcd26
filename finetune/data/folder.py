"""List the images and captions of a folder. They are in metadata.jsonl, in metadata.csv, or in text files beside the
images."""

import csv
import io
import json
import os
import posixpath
import re
import stat
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.config.mask import NO_MASKS, MaskConfig
from finetune.data.captions.files import TABLE_SUFFIXES, UNREAD_TABLE_SUFFIXES, UNREAD_TEXT_SUFFIXES, read_caption_files
from finetune.data.captions.found import refuse_puzzling
from finetune.data.captions.names import LISTINGS, TEXT_SUFFIXES, folded
from finetune.data.captions.reading import CaptionReading, UnreadableTextError, is_unicode, read_text
from finetune.data.captions.tables import NAME_FIELDS, delimiter_of
from finetune.data.captions.text import in_lines
from finetune.data.folder_repeats import FolderRepeats, folder_repeats
from finetune.data.images.decode import PLUGINS, readable_formats
from finetune.data.listing import Entry, Findings, read_captions, read_repeats, read_split, read_weight
from finetune.extras import install_command
from finetune.plurals import first_few

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi",
))
UNREAD_SUFFIXES = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".tga", ".ico", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".raf",
))
# fmt: on
PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}  # as Pillow calls their formats
MASK_SUFFIX = "-masklabel"
"""NAME-masklabel.png is the mask of NAME.jpg; OneTrainer's name for it."""
LIKELY_MASK = re.compile(
    r"(?:[-_. ]?mask|[-_. ](?:seg|segmentation|matte|alpha|silhouette))(?:[-_. ]?\d\d?)?$", re.IGNORECASE
)
"""x_mask.png, or x_seg_1.png, may be a mask of x.png; preparation decides from the pixels."""
TABLE_FILES = frozenset((".parquet", ".arrow", ".tar", ".zip"))
"""What `datasets.load_dataset` reads where a folder has no images of its own."""
MAX_FILE_BYTES = 500_000_000


@dataclass(frozen=True)
class FolderSource:
    """Images of a folder."""

    root: str

    def read(self, file_name: str) -> bytes:
        """Return a file's bytes. Pipes, devices and folders, which could block for ever, and huge files are refused."""
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
    reading: CaptionReading,
    findings: Findings,
    prepare: str,
    captions: Literal["listed", "folder", "none"] = "listed",
    mask: MaskConfig = NO_MASKS,
    repeats: FolderRepeats = "auto",
) -> list[Entry]:
    """Return the images that a folder lists, with their captions.

    Raises ValueError where there are no images or no captions at all; anything else is noted. `shown` is the folder as
    the user wrote it, `prepare` the command that makes a usable one. Captions are listed with the images, or are the
    names of their folders, or empty. Masks do not count as images: NAME-masklabel.png beside a NAME.jpg, and the files
    in mask.folder.
    """
    files = visible_files(root, findings)
    images = _without_masks(files, root, mask, findings)
    unread = [name for name in files if _suffix(name) in UNREAD_SUFFIXES and not _is_read(_suffix(name))]
    for name in unread:
        findings.warn(_why_unread(_suffix(name)), name)
    sidecars = [name for name in files if _suffix(name) in TEXT_SUFFIXES]
    listings = [name for name in LISTINGS if name in files]
    if captions != "listed":
        for name in [*listings, *sidecars]:
            findings.warn(f"captions that are not read because data.captions is {captions}", name)
    elif listings:
        return _read_listed(root, shown, (listings, sidecars, images), reading, findings)
    if not images:
        findings.raise_errors(f"data.folder: {shown} cannot be read:", "Check the permissions.")
        raise ValueError(
            f"data.folder: there are no images in {shown}. Expected metadata.jsonl, or images with .txt captions. "
            "Put them there, or prepare others: python -m datasets_prep --source FOLDER --output PREPARED"
            + (f"\nSave these as PNG or JPEG, their format is not read: {first_few(unread)}" if unread else "")
        )
    named = folder_repeats(images, repeats, "data.folder_repeats", findings)
    if captions == "none":
        entries = [Entry(name, ("",)) for name in images]
    elif captions == "folder":
        entries = [_named_by_folder(name, named, findings) for name in images]
    else:
        texts = _read_sidecars(root, files, images, reading, findings)
        if not texts:
            findings.raise_errors(f"data.folder: {shown} cannot be trained on as it is:", "Correct these.")
            raise ValueError(_no_captions(shown, len(images), files, prepare))
        entries = [Entry(name, read_captions([*texts.get(name, [])], name, findings)) for name in images]
    return [_repeated(entry, named) for entry in entries]


def _read_listed(
    root: str,
    shown: str,
    files: tuple[Sequence[str], Sequence[str], Sequence[str]],
    reading: CaptionReading,
    findings: Findings,
) -> list[Entry]:
    """Return the images of metadata.jsonl or metadata.csv. `files` are the listings, text files and images in the
    folder."""
    listings, sidecars, images = files
    if len(listings) > 1:
        findings.warn("listings that are not read because metadata.jsonl is there", listings[1])
    for name in sidecars:
        findings.warn(f"text files that are not read because {listings[0]} is there", name)
    entries = read_listing(root, shown, listings[0], reading, findings, images)
    listed = {entry.file_name for entry in entries}
    for name in images:
        if name not in listed:
            findings.warn(f"images that {listings[0]} does not mention, which are not used", name)
    return entries


def _no_captions(shown: str, num_images: int, files: Sequence[str], prepare: str) -> str:
    below = [name for name in files if posixpath.basename(name) in LISTINGS]
    return (
        f"data.folder: {shown} contains {num_images:,} images but no captions: no metadata.jsonl, and no .txt or "
        f".caption file beside an image. Run: {prepare}"
        + (f"\nOr give a folder further down that has them: {first_few(below)}" if below else "")
    )


def _repeated(entry: Entry, named: Mapping[str, tuple[int, str]]) -> Entry:
    folder = posixpath.dirname(entry.file_name)
    return replace(entry, repeats=named[folder][0]) if folder in named else entry


def holds_tables(root: str) -> bool:
    """Check whether a folder has tables or archives of images. `datasets.load_dataset` reads them."""
    suffixes = {_suffix(name) for name in visible_files(root, Findings())}
    return not suffixes.isdisjoint(TABLE_FILES) and suffixes.isdisjoint(IMAGE_SUFFIXES | UNREAD_SUFFIXES)


def is_image_name(name: str) -> bool:
    """Tell by its ending if a file's format is read."""
    return _is_read(_suffix(name))


def _without_masks(files: list[str], root: str, mask: MaskConfig, findings: Findings) -> list[str]:
    """Return the images among `files`; note masks that are not used."""
    names = [name for name in files if is_image_name(name)]
    masks = _masks_among(names, {_stem(name) for name in files if _suffix(name) in TEXT_SUFFIXES}, root, mask)
    stems = {_stem(name) for name in names if name not in masks}
    for name in names:
        stem = _stem(name)
        if name in masks and mask.kind != "file":
            findings.warn(f"masks that are not used because mask.kind is {mask.kind}", name)
        elif name in masks and stem.endswith(MASK_SUFFIX) and stem.removesuffix(MASK_SUFFIX) not in stems:
            findings.warn("masks without an image of their name", name)
        elif name not in masks and LIKELY_MASK.search(stem) and LIKELY_MASK.sub("", stem) in stems:
            kind = f"images that are named as the mask of another; rename them to NAME{MASK_SUFFIX} if they are"
            findings.warn(kind, name)
    return [name for name in names if name not in masks]


def _masks_among(names: list[str], captioned: set[str], root: str, mask: MaskConfig) -> set[str]:
    """Return the masks by their names.

    One without its image that is `captioned`, a stem of a text file, is an image.
    """
    stems = {_stem(name) for name in names}
    found = {
        name
        for name in names
        if (stem := _stem(name)).endswith(MASK_SUFFIX) and (stem[: -len(MASK_SUFFIX)] in stems or stem not in captioned)
    }
    if mask.folder is not None:
        folder = os.path.relpath(os.path.abspath(mask.folder), root)
        found |= {name for name in names if folder == posixpath.dirname(name) or name.startswith(f"{folder}/")}
    return found


def _is_read(suffix: str) -> bool:
    if suffix in PLUGIN_SUFFIXES:
        return PLUGIN_SUFFIXES[suffix] in readable_formats()
    return suffix in IMAGE_SUFFIXES


def _why_unread(suffix: str) -> str:
    if suffix not in PLUGIN_SUFFIXES:
        return "images in a format that is not read; save them as PNG or JPEG to use them"
    command = install_command(PLUGINS[PLUGIN_SUFFIXES[suffix]][1])
    return f"images whose format is not read. Run: {command}, or save them as PNG or JPEG"


def _named_by_folder(name: str, named: Mapping[str, tuple[int, str]], findings: Findings) -> Entry:
    path = posixpath.dirname(name)
    folder = (named[path][1] if path in named else posixpath.basename(path)).replace("_", " ").strip()
    if not folder:
        findings.error("images outside the folders of classes", name)
    return Entry(name, (folder,))


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def visible_files(root: str, findings: Findings) -> list[str]:
    """Return the POSIX paths of all visible files, sorted by bytes. Each real folder is entered once, so loops of links
    end."""
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
    for name in names:
        if not is_unicode(name):
            findings.error("files whose names are not UTF-8; rename them", ascii(name)[1:-1])
    return sorted(names, key=os.fsencode)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _read_sidecars(
    root: str, files: Sequence[str], images: Sequence[str], reading: CaptionReading, findings: Findings
) -> dict[str, list[str]]:
    """Return the captions from files beside the images; note unreadable ones."""
    suffixes = {*TEXT_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_TEXT_SUFFIXES, *UNREAD_TABLE_SUFFIXES}
    chosen = [name for name in files if _suffix(name) in suffixes]
    found = read_caption_files(FolderSource(root).read, [*images, *chosen], is_image_name, reading, findings)
    refuse_puzzling(found, images, reading, findings)
    return found.captions


def read_listing(
    root: str, shown: str, listing: str, reading: CaptionReading, findings: Findings, names: Sequence[str] = ()
) -> list[Entry]:
    """Return the images that metadata.jsonl or metadata.csv lists.

    Their names are relative to the folder `root`. `names` are the files that exist: a listed name may differ from one
    of them in how Unicode composes it, or in capitals. Notes errors of single lines; raises ValueError where no line is
    usable or the caption column is absent.
    """
    try:
        text = read_text(FolderSource(root).read, listing, findings)
    except UnreadableTextError as error:
        raise UnreadableTextError(
            f"data.folder: {shown}/{listing} cannot be read ({error}). Make it readable, or move it away."
        ) from error
    rows = _json_rows(text, findings) if listing.endswith(".jsonl") else _csv_rows(text, findings)
    entries: dict[str, Entry] = {}
    columns: dict[str, None] = {}
    actual = _ActualNames(names)
    for line, row in rows:
        columns |= dict.fromkeys(row)
        name = _listed_name(row, line, findings)
        if name is None:
            continue
        where = name = actual.of(posixpath.normpath(name))
        if name in entries:
            findings.error("file names that are listed twice", f"{name} (again in line {line})")
            continue
        captions = ()
        column = _caption_column(row, reading.column)
        if column in row or "captions_alt" in row:
            captions = read_captions([row.get(column), row.get("captions_alt")], where, findings)
        else:
            findings.error("images without a caption", where)
        weight, repeats = read_weight(row, where, findings), read_repeats(row, where, findings)
        entries[name] = Entry(name, captions, weight, repeats, read_split(row, where, findings))
    column = _caption_column(columns, reading.column)
    if columns and column not in columns and "captions_alt" not in columns:
        raise ValueError(
            f"{reading.column_option}: {column!r} is not a column of {shown}/{listing}, whose columns are "
            f"{', '.join(columns)}. Set {reading.column_option} to the one with the captions."
        )
    if column != reading.column:
        findings.warn(
            f"listings without the column {reading.column}, of which another is read", f"{listing} ({column})"
        )
    if not entries:
        findings.raise_errors(f"data.folder: {shown}/{listing} lists no usable image:", "Correct it and run again.")
        raise ValueError(f"data.folder: {shown}/{listing} is empty, expected one image per line. Write it again.")
    return list(entries.values())


class _ActualNames:
    """Existing file names by the names in a list."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)
        self._folded: dict[str, list[str]] = {}

    def of(self, name: str) -> str:
        """Return the existing name that differs in composition or capitals alone.

        Without exactly one, returns `name`.
        """
        if name in self._names or not self._names:
            return name
        if not self._folded:
            for each in self._names:
                self._folded.setdefault(folded(each), []).append(each)
        found = self._folded.get(folded(name), [])
        return found[0] if len(found) == 1 else name


def _listed_name(row: Mapping[str, object], line: int, findings: Findings) -> str | None:
    field = "file_name" if "file_name" in row else next((each for each in NAME_FIELDS[:-1] if each in row), "file_name")
    name = row.get(field)
    if not isinstance(name, str) or not name:
        findings.error("lines without a file_name", f"line {line}")
        return None
    if _escapes(name):
        findings.error("file names that lead out of the folder (absolute, .. or an address)", f"line {line}: {name}")
        return None
    return name


def _caption_column(there: Container[str], wanted: str) -> str:
    """Return the captions' column: text, caption or captions."""
    if wanted == "text" and "text" not in there:
        return next((column for column in ("caption", "captions") if column in there), wanted)
    return wanted


def _escapes(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or "://" in name or "\0" in name or bool(re.match(r"[A-Za-z]:[/\\]", name))


def _json_rows(text: str, findings: Findings) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(in_lines(text), 1):
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
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", delimiter=delimiter_of(text))
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
