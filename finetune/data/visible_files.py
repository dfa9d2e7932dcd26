"""List, name and read the files of a folder."""

import os
import posixpath
import re
import stat
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.captions.names import split_name
from finetune.data.captions.text import is_unicode
from finetune.data.images.decode import readable_formats
from finetune.data.listing import Findings

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
CONDITION_SUFFIX = "-condlabel"
"""NAME-condlabel.png is OneTrainer's condition image for NAME.jpg, such as edges or depth; no recipe uses it."""
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


def condition_images(names: Sequence[str], lost: Container[str], findings: Findings) -> set[str]:
    """Find OneTrainer's condition images, and note that they are left out. Their images are among `names`, or are
    `lost` ones without their endings."""
    plain = {
        name: stem.removesuffix(CONDITION_SUFFIX)
        for name in names
        if (stem := split_name(name)[0]).endswith(CONDITION_SUFFIX)
    }
    wanted = set(plain.values())
    owners = wanted.intersection(split_name(name)[0] for name in names) if wanted else set()
    found = [name for name, stem in plain.items() if stem in owners or stem in lost]
    for name in found:
        findings.warn("condition images of OneTrainer, which no recipe uses; they are left out", name)
    return set(found)


def visible_files(root: str, findings: Findings) -> list[str]:
    """Return the POSIX paths of all visible files, sorted by bytes. Each real folder is entered once."""
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


def is_saved_dataset(folder: Path) -> bool:
    """Tell if `Dataset.save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def holds_tables(files: Sequence[str]) -> bool:
    """Tell if a folder's files are tables or archives of images. `datasets.load_dataset` reads them."""
    suffixes = {split_name(name)[1] for name in files}
    return not suffixes.isdisjoint(TABLE_FILES) and suffixes.isdisjoint(IMAGE_SUFFIXES | UNREAD_SUFFIXES)


def is_image_name(name: str) -> bool:
    """Tell by its ending if a file's format is read."""
    return is_read_suffix(split_name(name)[1])


def is_read_suffix(suffix: str) -> bool:
    """Tell if files with an ending are read, perhaps with a plugin."""
    if suffix in PLUGIN_SUFFIXES:
        return PLUGIN_SUFFIXES[suffix] in readable_formats()
    return suffix in IMAGE_SUFFIXES
