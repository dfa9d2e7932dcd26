"""Find and read the caption files of a folder's images; torch-free.

In order: text files beside an image (x.txt, x.png.txt, x.caption), JSON beside it (x.json, x.png.json), and files that
list several images (captions.json, sd-scripts' metadata, CSV). Later ones are read for images without a caption from
earlier ones. A file that seems to contain captions and is not understood stops the run if an image is left without one.
"""

import posixpath
from collections.abc import Callable, Iterable, Sequence

from finetune.data.captions.beside import read_beside
from finetune.data.captions.found import DETECTED, FoundCaptions
from finetune.data.captions.listed import read_table
from finetune.data.captions.names import CLASS_SUFFIX, JSON_SUFFIX, LISTINGS, TEXT_SUFFIXES, ImageNames, split_name
from finetune.data.captions.reading import CaptionReading, Read, UnreadableTextError, read_text
from finetune.data.captions.telling import CAPTIONS_NAME, has_boxes, telling_element
from finetune.data.listing import Findings

TABLE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt")
UNREAD_TEXT_SUFFIXES = (
    ".yaml", ".yml", ".toml", ".md", ".rtf", ".docx", ".cap", ".desc", ".description", ".tag", ".srt", ".vtt", ".sub",
    ".sbv", ".ass", ".ssa", ".lrc",
)  # fmt: skip
"""Files beside an image that may hold its caption in a form that is not read."""
MARKUP_SUFFIXES = (".xmp", ".xml", ".html", ".htm")
"""Files beside an image that are looked into for an element such as a description."""
UNREAD_TABLE_SUFFIXES = (
    ".xlsx", ".xls", ".ods", ".parquet", ".db", ".sqlite", ".sqlite3", ".xml", ".yaml", ".yml", ".toml", ".docx",
    ".pdf",
)  # fmt: skip
"""Files that may list captions where they are called so."""
CAPTION_SUFFIXES = frozenset(
    (*TEXT_SUFFIXES, *TABLE_SUFFIXES, *UNREAD_TEXT_SUFFIXES, *UNREAD_TABLE_SUFFIXES, *MARKUP_SUFFIXES)
)
"""Files that may have captions, read or not. In archives, those of classes may too."""
FOLDER_SETTINGS = frozenset(
    ("multiply.txt", "cond_dropout.txt", "flip_p.txt", "batch_id.txt", "global.yaml", "local.yaml", "batch.yaml")
)
"""EveryDream2's settings for the images of a folder."""


def read_caption_files(
    read: Read,
    names: Sequence[str],
    is_image: Callable[[str], bool],
    reading: CaptionReading,
    findings: Findings,
    *,
    is_keyed: bool = False,
) -> FoundCaptions:
    """Return image -> captions from the files among `names`, and their sources. `is_image` knows images by their names;
    files of other endings count as images where no image has the same stem. `is_keyed` is how WebDataset names files:
    .cls counts too, and where no file has the same name, all up to the first dot decides."""
    names = [name for name in names if is_image(name) or not reading.is_ignored(name)] if reading.ignored else names
    suffixes = (*TEXT_SUFFIXES, JSON_SUFFIX, *((CLASS_SUFFIX,) if is_keyed else ()))
    others = {*suffixes, *TABLE_SUFFIXES}
    listings = {name for name in names if posixpath.basename(name) in LISTINGS}
    files = {name for name in names if split_name(name)[1] in others and name not in listings and not is_image(name)}
    images = ImageNames([name for name in names if name not in files | listings], is_image, is_keyed=is_keyed)
    found = FoundCaptions()
    orphans = []
    beside: dict[str, list[str]] = {}
    for name in sorted(files, key=lambda name: (_order(split_name(name)[1], suffixes), name)):
        owners = images.beside(name) if split_name(name)[1] in suffixes else []
        if owners:
            beside[name] = owners
        else:
            orphans.append(name)
    read_beside(read, beside, reading, findings, found)
    _note_unread(read, names, is_image, images, findings, found)
    for name in orphans:
        read_table(read, name, images, reading, findings, found)
    apart = texts_apart([name for name in orphans if name not in found.used], images, found)
    for name in apart:
        findings.warn("caption files in a folder of their own, taken for the images of the same name", name)
    read_beside(read, apart, reading, findings, found)
    for name in orphans:
        if name not in found.used and split_name(name)[1] in TEXT_SUFFIXES and not _is_folder_setting(name):
            findings.warn("text files without an image of the same name", name)
            if owners := [*filter(is_image, images.nearly(name))]:
                found.puzzling.setdefault(name, (f"its name is nearly that of {owners[0]}", owners))
    return found


def _is_folder_setting(name: str) -> bool:
    return posixpath.basename(name).lower() in FOLDER_SETTINGS


def _note_unread(
    read: Read,
    names: Sequence[str],
    is_image: Callable[[str], bool],
    images: ImageNames,
    findings: Findings,
    found: FoundCaptions,
) -> None:
    """Note files that may have captions in other forms."""
    for name in names:
        suffix = split_name(name)[1]
        if _is_folder_setting(name):
            findings.warn(
                "settings of EveryDream2 for a folder, which are not read; entries of data.folders have repeats, a "
                "weight and words around captions",
                name,
            )
            continue
        is_text = suffix in (*UNREAD_TEXT_SUFFIXES, *MARKUP_SUFFIXES)
        owners = [*filter(is_image, images.beside(name))] if is_text else []
        if owners and suffix in UNREAD_TEXT_SUFFIXES:
            found.puzzling[name] = f"a {suffix} beside an image is not read", owners
        elif owners:
            try:
                text = read_text(read, name, Findings())
            except UnreadableTextError as error:
                found.unusable[name] = str(error), owners
                continue
            element = telling_element(text)
            if element is None and has_boxes(text):
                findings.warn(DETECTED, name)
            elif element is not None:
                found.puzzling[name] = f"a {suffix} beside an image is not read; it has a {element}", owners
        elif suffix in UNREAD_TABLE_SUFFIXES and CAPTIONS_NAME.search(posixpath.basename(name)):
            found.puzzling[name] = f"{suffix} is not read", ()


def _order(suffix: str, suffixes: Sequence[str]) -> int:
    return suffixes.index(suffix) if suffix in suffixes else len(suffixes)


def texts_apart(texts: Iterable[str], images: ImageNames, found: FoundCaptions) -> dict[str, list[str]]:
    """Return texts in folders without images that each fit one image. It has no caption yet, and no other fits."""
    by_image: dict[str, list[str]] = {}
    for name in texts:
        folder, base = posixpath.split(name)
        if folder and split_name(name)[1] in TEXT_SUFFIXES and not images.has_folder(folder):
            owners = images.called(split_name(base)[0])
            if len(owners) == 1 and not found.captions.get(owners[0]):
                by_image.setdefault(owners[0], []).append(name)
    return {names[0]: [image] for image, names in by_image.items() if len(names) == 1}
