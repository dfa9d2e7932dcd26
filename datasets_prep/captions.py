"""Finds the captions that pictures bring along, makes one where there is none, and adds the trigger."""

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from finetune.data.entries import Entry, Findings
from finetune.data.folder import SIDECAR_SUFFIXES, decode_text, read_listing

LISTINGS = ("metadata.jsonl", "metadata.csv")
JSON_FIELDS = ("caption", "text", "captions", "tags")
TEXT_SUFFIXES = (*SIDECAR_SUFFIXES, ".json", ".cls")
CAMERA_WORDS = frozenset(("img", "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "gopr"))

Read = Callable[[str], bytes]
"""Gives a file's bytes by its name."""


def read_sidecars(
    read: Read, sources: Sequence[str], column: str, findings: Findings, *, is_keyed: bool = False
) -> tuple[dict[str, list[str]], set[str]]:
    """Returns source -> captions from the text files of the same name, and the text files that are such.

    Those are .txt and .caption, a caption a line, and .json with a text, or with an object that holds `column`,
    caption, text, captions or tags; a .json with none of these is no caption file. `is_keyed` is how WebDataset names
    files: .cls counts too, and where no file has the same name, all up to the first dot decides.
    """
    suffixes = TEXT_SUFFIXES if is_keyed else TEXT_SUFFIXES[:-1]
    owners: dict[str, list[str]] = {}
    keyed: dict[str, list[str]] = {}
    for name in sources:
        if _split(name)[1] not in suffixes and posixpath.basename(name) not in LISTINGS:
            owners.setdefault(_split(name)[0], []).append(name)
            keyed.setdefault(_key(name), []).append(name)
    captions: dict[str, list[str]] = {}
    used = set()
    sidecars = [name for name in sources if _split(name)[1] in suffixes]
    for name in sorted(sidecars, key=lambda name: suffixes.index(_split(name)[1])):  # stable
        stem, suffix = _split(name)
        pictures = owners.get(stem) or (keyed.get(_key(name), []) if is_keyed else [])
        if not pictures:
            if suffix in SIDECAR_SUFFIXES:
                findings.warn("text files without a picture of the same name", name)
            continue
        lines = _read_sidecar(read, name, column, findings)
        if lines is None:
            continue
        used.add(name)
        if len(pictures) > 1:
            findings.warn("text files that give several pictures of the same name their captions", name)
        for picture in pictures:
            captions.setdefault(picture, []).extend(lines)
    return captions, used


def read_folder_entries(
    root: str, read: Read, sources: Sequence[str], column: str, findings: Findings
) -> dict[str, Entry]:
    """Returns an entry for every file that does not itself hold captions, with all its captions; it may have none.

    They come from metadata.jsonl or metadata.csv at the top of the folder or in folders below, each of which lists what
    lies in its folder, and then from text files beside the pictures. Weight, repeats and split are those of the listing
    nearest to the picture.
    """
    listed: dict[str, Entry] = {}
    used = set()
    for listing in _listings(sources):
        entries = _read_listing(root, listing, column, findings)
        if entries is None:
            continue
        used.add(listing)
        for entry in entries:
            above = listed.get(entry.file_name)
            listed[entry.file_name] = (
                entry if above is None else replace(entry, captions=above.captions + entry.captions)
            )
    for name in sorted(set(listed).difference(sources)):
        findings.warn("pictures that a listing mentions but that are not there", name)
    texts, sidecars = read_sidecars(read, [name for name in sources if name not in used], column, findings)
    return joined_entries([name for name in sources if name not in used | sidecars], listed, texts)


def joined_entries(
    sources: Iterable[str], listed: Mapping[str, Entry], texts: Mapping[str, Sequence[str]]
) -> dict[str, Entry]:
    """Returns an entry for each source: what is listed of it, and the texts beside it behind that, each once."""
    entries = {name: listed.get(name, Entry(name, ())) for name in sources}
    return {
        name: replace(entry, captions=tuple(dict.fromkeys([*entry.captions, *texts.get(name, ())])))
        for name, entry in entries.items()
    }


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


def warn_of_errors(found: Findings, place: str, findings: Findings) -> None:
    """Notes as warnings what would be errors in training: a single line or row that is wrong stops no preparation."""
    try:
        found.raise_errors("", "")
    except ValueError as error:
        for line in str(error).split("\n  ")[1:]:
            findings.warn(f"problems in {place}", line.strip())


def _split(name: str) -> tuple[str, str]:
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _listings(sources: Iterable[str]) -> list[str]:
    """One in each folder, the ones further up first."""
    by_folder: dict[str, str] = {}
    for name in sorted((name for name in sources if posixpath.basename(name) in LISTINGS), reverse=True):
        by_folder.setdefault(posixpath.dirname(name), name)  # .jsonl comes before .csv
    return sorted(by_folder.values(), key=lambda name: (name.count("/"), os.fsencode(name)))


def _read_listing(root: str, listing: str, column: str, findings: Findings) -> list[Entry] | None:
    """None where a file below the top, which only happens to have that name, lists no pictures."""
    folder, name = posixpath.split(listing)
    found = Findings()  # its warnings speak of what training would do with the folder
    try:
        entries = read_listing(os.path.join(root, folder), os.path.join(root, folder), name, column, found)
    except ValueError as error:
        if folder and "file_name" not in str(error):
            findings.warn("listings below the top that list no pictures", listing)
            return None
        text = str(error).replace("data.caption_column", "caption_column").replace("data.folder", "source")
        raise ValueError(f"{text}\nOr move {listing} away to do without its captions.") from error
    warn_of_errors(found, listing, findings)
    return [replace(entry, file_name=posixpath.join(folder, entry.file_name)) for entry in entries]


def _read_sidecar(read: Read, name: str, column: str, findings: Findings) -> list[str] | None:
    """The captions in a text file, maybe none; None where it is a .json about something else."""
    try:
        text, is_guess = decode_text(read(name))
    except (OSError, ValueError) as error:
        findings.warn("text files that cannot be read", f"{name} ({error})")
        return []
    suffix = _split(name)[1]
    if suffix == ".json":
        return _json_captions(text, name, column, findings)
    if is_guess:
        findings.warn("text files in neither UTF-8 nor UTF-16, read as Latin-1", name)
    if "\0" in text:
        findings.warn("text files with NUL characters, which are not used", name)
        return []
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if suffix == ".cls" and all(line.isdecimal() for line in lines):
        findings.warn("numbers of classes, which are no captions", name)
        return []
    return lines


def _json_captions(text: str, name: str, column: str, findings: Findings) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, str):
        return usable_texts([value], name, findings)
    if not isinstance(value, dict):
        return None
    fields = [field for field in dict.fromkeys((column, *JSON_FIELDS)) if field in value]
    if not fields:
        return None
    parts = []
    for field in fields:
        content = value[field]
        if field == "tags" and isinstance(content, list):
            content = ", ".join(usable_texts(content, name, findings))
        parts.append(content)
    return usable_texts(parts, name, findings)


def made_caption(source: str, root_name: str, trigger: str | None, findings: Findings) -> str:
    """Returns a caption for a picture that has none: the first of file name, folder, trigger and source with words."""
    folder, file_name = posixpath.split(source)
    named = {
        "the file name": name_in_words(posixpath.splitext(file_name)[0]),
        "the folder's name, because the file name says nothing": name_in_words(posixpath.basename(folder)),
        "the trigger alone, because no name says anything": trigger,
        "the source's name, because no other says anything": name_in_words(root_name),
    }
    origin, text = next(((origin, text) for origin, text in named.items() if text), ("nothing", "picture"))
    findings.warn(f"pictures without a caption, which got one made from {origin}", source)
    return text


def name_in_words(name: str) -> str:
    """Returns the words of a name, without numbers, the hashes of downloads and what cameras write; may be empty."""
    parts = [part for part in re.split(r"[^\w'’]+|_+", name) if not re.fullmatch(r"(?=.*\d)[0-9a-fA-F]{8,}", part)]
    words = [part.strip("'’").rstrip("0123456789") for part in parts]
    return " ".join(word for word in words if word and word.lower() not in CAMERA_WORDS)


def with_trigger(caption: str, trigger: str | None) -> str:
    """Returns the caption with the trigger behind it, unless it stands somewhere in it."""
    if trigger is None or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{caption}, {trigger}"
