"""Finds the files that hold the captions of a folder's images and reads them, for recipes and preparation; torch-free.

In order: text files beside an image (x.txt, x.png.txt, x.caption), JSON beside it (x.json, x.png.json), and files that
list several images (captions.json, sd-scripts' metadata, CSV). What comes later is read where nothing before had a
caption. What seems to hold captions and is not understood stops the run where an image is left without one.
"""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.data.captions.tables import (
    TELLING_NAME,
    NotUnderstood,
    Row,
    caption_values,
    csv_rows,
    json_lines_rows,
    json_rows,
    named_lines,
    parsed_json,
)
from finetune.data.captions.text import CaptionLines, caption_text, decode_text, has_words, in_fence, looks_misread
from finetune.data.listing import Findings

TEXT_SUFFIXES = (".txt", ".caption", ".captions", ".tags", ".text", ".prompt")
JSON_SUFFIX = ".json"
CLASS_SUFFIX = ".cls"
"""A class's name in WebDataset archives."""
TABLE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt")
UNREAD_TEXT_SUFFIXES = (".yaml", ".yml", ".toml", ".md", ".rtf", ".docx", ".cap", ".desc", ".description", ".tag")
"""Files beside an image that may hold its caption in a form that is not read."""
UNREAD_TABLE_SUFFIXES = (
    ".xlsx", ".xls", ".ods", ".parquet", ".db", ".sqlite", ".sqlite3", ".xml", ".yaml", ".yml", ".toml", ".docx",
    ".pdf",
)  # fmt: skip
"""Files that may list captions where they are called so."""
UNREAD_TABLE_NAME = re.compile(r"caption|prompt", re.IGNORECASE)
FURTHER_PART = re.compile(r"[-_. ]+[^-_. \d][^-_. ]*$")
"""The last part of a name, unless it begins with a digit, as in a series."""
JSON_STARTS = ("{", "[", '"')
RTF_START = "{\\rtf"
LISTINGS = ("metadata.jsonl", "metadata.csv")
LARGEST_TABLE = 200_000_000
"""Characters; larger files are not looked into for a list of images."""

Read = Callable[[str], bytes]
"""Gives a file's bytes by its name."""


@dataclass(frozen=True)
class Reading:
    """How captions are read, and what the options that decide are called where they are read for."""

    column: str = "text"
    lines: CaptionLines | None = None
    """What several lines of a text file are; None is alternatives, with a warning, and refuses what seems wrapped."""
    is_training: bool = True
    """Whether a file that cannot be read is an error, as for a recipe; preparation notes it and continues."""

    @property
    def lines_option(self) -> str:
        return "data.caption_lines" if self.is_training else "captions.lines"

    @property
    def column_option(self) -> str:
        return "data.caption_column" if self.is_training else "caption_column"


@dataclass
class FoundCaptions:
    """Captions by image, and the files that they were read from."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    puzzling: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """Files that seem to hold captions, why they are not understood, and the images they are beside, if any."""
    unusable: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """The same for files whose text cannot be had, such as those that may not be read."""


def folded(name: str) -> str:
    """Returns a name for comparison: Unicode composed, as most systems write it, and in small letters."""
    return unicodedata.normalize("NFC", name).casefold()


def split_name(name: str) -> tuple[str, str]:
    """Returns a name without its ending, and the ending in small letters."""
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


class ImageNames:
    """Finds images by what files beside them, and lists, call them."""

    def __init__(self, images: Iterable[str], is_image: Callable[[str], bool], *, is_keyed: bool) -> None:
        self._is_image = is_image
        self._names: set[str] = set()
        self._stems: dict[str, list[str]] = {}
        self._keys: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] | None = None
        self._bases: dict[str, list[str]] | None = None
        self._folders: set[str] | None = None
        for name in images:
            self._names.add(name)
            self._stems.setdefault(split_name(name)[0], []).append(name)
            if is_keyed:
                self._keys.setdefault(_key(name), []).append(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def beside(self, text: str) -> list[str]:
        """Returns the images that a text file belongs to: x.png, or all of that stem, for x.txt, and x.png.txt.

        Names that differ in capitals or in how Unicode composes them fit where no other does.
        """
        stem = split_name(text)[0]
        found = self._stems.get(stem) or self._exactly(stem) or self._keys.get(_key(text))
        if found is None:
            by_fold = self._by_fold()
            found = by_fold.get(folded(stem), [])
        if not found and self._is_image(stem):  # x.jpg.txt beside x.png: the image was saved in another format
            found = self._stems.get(split_name(stem)[0], [])
        pictures = [name for name in found if self._is_image(name)]
        return pictures or found

    def listed(self, name: str, folder: str) -> list[str]:
        """Returns the images that a list in `folder` may mean by a name: one, or several where it does not decide."""
        path = posixpath.normpath(name.replace("\\", "/"))
        inside = posixpath.normpath(posixpath.join(folder, path))
        found = self._exactly(inside) or self._stems.get(inside) or self._by_fold().get(folded(inside))
        if found:
            return found
        start = f"{folder}/" if folder else ""
        found = [name for name in self.called(posixpath.basename(path)) if name.startswith(start)]
        whole = "/" + folded(path)
        ends = [name for name in found if whole.endswith(("/" + folded(name), "/" + folded(split_name(name)[0])))]
        return ends or found

    def nearly(self, text: str) -> list[str]:
        """Returns the images that a text file without an image of its name may be of.

        Its name has one more part, as x_caption.txt and x.en.txt have, or it is in a folder of texts, as others of its
        name are.
        """
        folder, base = posixpath.split(split_name(text)[0])
        shorter = FURTHER_PART.sub("", base)
        found = self._stems.get(posixpath.join(folder, shorter), []) if shorter != base else []
        return found or ([] if self.has_folder(folder) else self.called(base))

    def _exactly(self, name: str) -> list[str]:
        return [name] if name in self._names else []

    def called(self, base: str) -> list[str]:
        """Returns the images whose file names are this one, with or without their endings."""
        return self._by_base().get(folded(base), [])

    def has_folder(self, folder: str) -> bool:
        """Returns whether images are directly in a folder."""
        if self._folders is None:
            self._folders = {posixpath.dirname(name) for name in self._names if self._is_image(name)}
        return folder in self._folders

    def _by_fold(self) -> Mapping[str, list[str]]:
        if self._folded is None:
            self._folded = {}
            for name in self._names:
                for key in dict.fromkeys((folded(name), folded(split_name(name)[0]))):
                    self._folded.setdefault(key, []).append(name)
        return self._folded

    def _by_base(self) -> Mapping[str, list[str]]:
        if self._bases is None:
            self._bases = {}
            for name in self._names:
                base = folded(posixpath.basename(name))
                for key in dict.fromkeys((base, split_name(base)[0])):
                    self._bases.setdefault(key, []).append(name)
        return self._bases


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def read_caption_files(
    read: Read,
    names: Sequence[str],
    is_image: Callable[[str], bool],
    reading: Reading,
    findings: Findings,
    *,
    is_keyed: bool = False,
) -> FoundCaptions:
    """Returns image -> captions from the files among `names`, and the files that hold them.

    `is_image` knows images by their names; files of other endings count as images where no image has the same stem.
    `is_keyed` is how WebDataset names files: .cls counts too, and where no file has the same name, all up to the first
    dot decides.
    """
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
    _read_beside(read, beside, reading, findings, found)
    for name in names:
        if split_name(name)[1] in UNREAD_TEXT_SUFFIXES and (owners := [*filter(is_image, images.beside(name))]):
            found.puzzling[name] = f"a {split_name(name)[1]} beside an image is not read", owners
        elif split_name(name)[1] in UNREAD_TABLE_SUFFIXES and UNREAD_TABLE_NAME.search(posixpath.basename(name)):
            found.puzzling[name] = f"{split_name(name)[1]} is not read", ()
    for name in orphans:
        _read_table(read, name, images, reading, findings, found)
    apart = texts_apart([name for name in orphans if name not in found.used], images, found)
    for name in apart:
        findings.warn("caption files in a folder of their own, taken for the images of the same name", name)
    _read_beside(read, apart, reading, findings, found)
    for name in orphans:
        if name not in found.used and split_name(name)[1] in TEXT_SUFFIXES:
            findings.warn("text files without a picture of the same name", name)
            if owners := [*filter(is_image, images.nearly(name))]:
                found.puzzling.setdefault(name, (f"its name is nearly that of {owners[0]}", owners))
    return found


def refuse_puzzling(found: FoundCaptions, images: Collection[str], reading: Reading, findings: Findings) -> None:
    """Notes as an error the files that seem to hold captions where one of the `images` has none."""
    bare = {name for name in images if not found.captions.get(name)} if found.puzzling or found.unusable else set()
    for name, (why, owners) in found.puzzling.items():
        if bare and (not owners or bare.intersection(owners)):
            findings.error(
                f"files that seem to hold captions but are not understood, while images are left without one; name the "
                f"field with --{reading.column_option}, write .txt files, or move these away",
                f"{name} ({why})",
            )
    for name, (why, owners) in found.unusable.items():
        if bare and (not owners or bare.intersection(owners)):
            refuse_unusable(name, why, findings)
        elif owners:
            findings.warn("caption files that cannot be used, of images with another caption", f"{name} ({why})")


def refuse_unusable(name: str, why: str, findings: Findings) -> None:
    """Notes as an error a caption file whose text cannot be had, while an image has no other caption."""
    findings.error(
        "caption files that cannot be used, while images are left without a caption; make them readable, write them "
        "again, or move them away",
        f"{name} ({why})",
    )


def _order(suffix: str, suffixes: Sequence[str]) -> int:
    return suffixes.index(suffix) if suffix in suffixes else len(suffixes)


def texts_apart(texts: Iterable[str], images: ImageNames, found: FoundCaptions) -> dict[str, list[str]]:
    """Returns the text files in folders without images that each fit one image alone, which has no caption yet."""
    by_image: dict[str, list[str]] = {}
    for name in texts:
        folder, base = posixpath.split(name)
        if folder and split_name(name)[1] in TEXT_SUFFIXES and not images.has_folder(folder):
            owners = images.called(split_name(base)[0])
            if len(owners) == 1 and not found.captions.get(owners[0]):
                by_image.setdefault(owners[0], []).append(name)
    return {names[0]: [image] for image, names in by_image.items() if len(names) == 1}


def _read_beside(
    read: Read, beside: Mapping[str, list[str]], reading: Reading, findings: Findings, found: FoundCaptions
) -> None:
    """Reads the files that each belong to an image, texts before JSON."""
    from_text: set[str] = set()
    for name, owners in beside.items():
        if split_name(name)[1] == JSON_SUFFIX:
            texts = _json_texts(read, name, owners, reading, findings, found)
        else:
            texts = _texts(read, name, owners, reading, findings, found)
            from_text.update(owners if texts else ())
        if texts is None:
            continue
        found.used.add(name)
        if len(owners) > 1:
            findings.warn("text files that give several pictures of the same name their captions", name)
        for owner in owners:
            if split_name(name)[1] == JSON_SUFFIX and owner in from_text:
                _note_other(texts, owner, name, found, findings)
            else:
                _note_second(texts, owner, name, found, findings)
                found.captions.setdefault(owner, []).extend(texts)


def _note_other(texts: Sequence[str], owner: str, name: str, found: FoundCaptions, findings: Findings) -> None:
    if not set(texts) <= set(found.captions.get(owner, ())):
        findings.warn("files with other captions than the text file beside the image, which counts", name)


def _note_second(texts: Sequence[str], owner: str, name: str, found: FoundCaptions, findings: Findings) -> None:
    before = found.captions.get(owner)
    if before and texts and set(texts) != set(before):
        findings.warn("files with further captions for an image that has one; each is a caption to draw from", name)


def _texts(
    read: Read, name: str, owners: Sequence[str], reading: Reading, findings: Findings, found: FoundCaptions
) -> list[str]:
    """The captions in a text file, maybe none."""
    try:
        text = read_text(read, name, findings)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), owners
        return []
    if "\0" in text:
        found.unusable[name] = "it holds NUL characters", owners
        return []
    if text.startswith(RTF_START):
        found.unusable[name] = "it is rich text (RTF); save it as plain text", owners
        return []
    body = in_fence(text)
    if body.startswith(JSON_STARTS):
        try:
            values = caption_values(parsed_json(body), reading.column) or []
        except NotUnderstood as error:
            found.puzzling[name] = str(error), owners
            return []
        except ValueError:  # a prompt such as {red|blue} cat
            values = None
        if values is not None:
            told = (
                "of which the captions are used" if values else "in which no caption is known, and which are not used"
            )
            findings.warn(f"text files that hold JSON, {told}", name)
            return usable_texts(values, name, findings)
    content = caption_text(text)
    if split_name(name)[1] == CLASS_SUFFIX and all(line.isdecimal() for line in content.lines):
        findings.warn("numbers of classes, which are not captions", name)
        return []
    if content.is_boxes:
        findings.warn("text files with the boxes of an object detector, which are not captions", name)
    if content.has_wordless:
        findings.warn("caption files with lines that have no word, such as ., or nan, which are not used", name)
    if content.has_parameters:
        findings.warn("caption files with an image generator's parameters, of which the prompt alone is used", name)
    if reading.lines is None and content.looks_wrapped:
        findings.error(
            f"caption files whose lines seem to be paragraphs or one sentence; say what they are with "
            f"--{reading.lines_option} joined (one caption), first (the first line alone) or alternatives (each line)",
            name,
        )
    elif reading.lines is None and len(content.lines) > 1:
        findings.warn(
            f"caption files with several lines, each of which is a separate caption; set --{reading.lines_option} to "
            "alternatives to keep that, to joined or to first",
            name,
        )
    return content.captions(reading.lines)


class UnreadableTextError(ValueError):
    """A text file whose bytes cannot be had; its text says why."""


def read_text(read: Read, name: str, findings: Findings) -> str:
    """Returns the text of a file and notes a guessed encoding; raises UnreadableTextError."""
    try:
        data = read(name)
    except OSError as error:
        raise UnreadableTextError(error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableTextError(str(error)) from error
    text, is_guess = decode_text(data)
    if is_guess and looks_misread(text):
        raise UnreadableTextError(
            "in an encoding that is not read, such as Shift-JIS, GBK or Windows-1251; save it as UTF-8"
        )
    if is_guess:
        findings.warn("text files in neither UTF-8 nor UTF-16, read as Windows-1252", name)
    return text


def _json_texts(
    read: Read, name: str, owners: Sequence[str], reading: Reading, findings: Findings, found: FoundCaptions
) -> list[str] | None:
    """The captions in a .json beside an image, maybe none; None where it is about something else."""
    try:
        text = read_text(read, name, findings)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), owners
        return []
    try:
        values = caption_values(parsed_json(text), reading.column)
    except NotUnderstood as error:
        found.puzzling[name] = str(error), owners
        return None
    except ValueError:
        return None
    return None if values is None else usable_texts(values, name, findings)


def _read_table(
    read: Read, name: str, images: ImageNames, reading: Reading, findings: Findings, found: FoundCaptions
) -> None:
    """Reads a file that lists several images, unless it is about something else."""
    own = Findings()  # what is noted of a file that turns out to be about something else is not said
    try:
        text = read_text(read, name, own)
    except UnreadableTextError as error:
        found.unusable[name] = str(error), ()
        return
    if len(text) > LARGEST_TABLE:
        return
    try:
        rows = _rows(text, split_name(name)[1], reading.column, images)
    except ValueError as error:
        if TELLING_NAME.search(posixpath.basename(name)) or _mentions(text, images):
            found.puzzling[name] = str(error), ()
        return
    if not rows and split_name(name)[1] in TEXT_SUFFIXES:
        rows = named_lines(text, images)
        if not rows and TELLING_NAME.search(split_name(posixpath.basename(name))[0]) and has_words(text):
            found.puzzling[name] = "its lines name no images", ()
    folder = posixpath.dirname(name)
    matches = [(row, images.listed(row.name, folder)) for row in rows]
    if not any(owners for _, owners in matches):
        if rows and split_name(name)[1] != ".txt" and TELLING_NAME.search(posixpath.basename(name)):
            found.puzzling[name] = f"it names no image that there is, e.g. {rows[0].name}", ()
        return
    if not any(row.values for row, _ in matches):
        return
    found.used.add(name)
    if own.warnings:
        read_text(read, name, findings)
    _take_rows(matches, name, findings, found)


def _rows(text: str, suffix: str, column: str, images: ImageNames) -> list[Row]:
    if suffix == JSON_SUFFIX:
        return json_rows(parsed_json(text), column)
    return json_lines_rows(text, column) if suffix == ".jsonl" else csv_rows(text, column, images)


def _mentions(text: str, images: ImageNames) -> bool:
    """Whether a text that is no list names an image all the same."""
    return any(word in images for word in text.replace('"', " ").replace(",", " ").replace(";", " ").split()[:10_000])


def _take_rows(matches: Sequence[tuple[Row, list[str]]], name: str, findings: Findings, found: FoundCaptions) -> None:
    earlier = {owner for owner, texts in found.captions.items() if texts}
    for row, owners in matches:
        texts = usable_texts(row.values, f"{name}: {row.name}", findings)
        if not owners:
            findings.warn("pictures that a listing mentions but that are not there", f"{name}: {row.name}")
        elif len({split_name(owner)[0] for owner in owners}) > 1:
            findings.error(
                "names in a listing that several images have; give them with their folders", f"{name}: {row.name}"
            )
        for owner in owners:
            if owner in earlier:
                _note_other(texts, owner, f"{name}: {row.name}", found, findings)
            else:
                found.captions.setdefault(owner, []).extend(texts)


def usable_texts(values: Iterable[object], where: str, findings: Findings) -> list[str]:
    """Returns the captions among values from a table or JSON: texts and lists of them, stripped, without blank ones."""
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    texts = []
    for item in flat:
        if item is None:
            continue
        if not isinstance(item, str):
            findings.warn("captions that are not text, which are not used", f"{where} ({type(item).__name__})")
        elif "\0" in item or not is_unicode(item):
            findings.warn("captions with NUL or broken Unicode, which are not used", where)
        elif item.strip() and not has_words(item):
            findings.warn("captions without a word, such as ., or nan, which are not used", where)
        elif item.strip():
            texts.append(item.strip())
    return list(dict.fromkeys(texts))


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written as UTF-8; names that are none hold surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
