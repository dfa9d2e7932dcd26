"""Finds the captions that pictures bring along, makes one where there is none, and adds the trigger."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace

from finetune.data.entries import Entry, Findings
from finetune.data.folder import SIDECAR_SUFFIXES, FolderSource, decode_text, read_folder

LISTINGS = ("metadata.jsonl", "metadata.csv")
CAMERA_WORDS = frozenset(("img", "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "gopr"))


def read_entries(root: str, sources: Sequence[str], column: str, findings: Findings) -> dict[str, Entry]:
    """Returns an entry for every file that does not itself hold captions, with all its captions; it may have none.

    They come from the listing at the top of the folder, if there is one, and then from the text files of the same name.
    """
    listing = next((name for name in LISTINGS if name in sources), None)
    listed = {} if listing is None else _read_listing(root, listing, column, findings)
    for name in sorted(set(listed).difference(sources)):
        findings.warn(f"pictures that {listing} mentions but that are not there", name)
    sidecars = {suffix: [name for name in sources if _split(name)[1] == suffix] for suffix in SIDECAR_SUFFIXES}
    stems = {_split(name)[0] for name in sources if name != listing and _split(name)[1] not in SIDECAR_SUFFIXES}
    read = {listing}
    texts: dict[str, list[str]] = {}
    for name in [name for suffix in SIDECAR_SUFFIXES for name in sidecars[suffix]]:
        stem = _split(name)[0]
        if stem in stems:
            read.add(name)
            texts.setdefault(stem, []).extend(_read_lines(root, name, findings))
        else:
            findings.warn("text files without a picture of the same name", name)
    entries = {name: listed.get(name, Entry(name, ())) for name in sources if name not in read}
    return {
        name: replace(entry, captions=tuple(dict.fromkeys([*entry.captions, *texts.get(_split(name)[0], [])])))
        for name, entry in entries.items()
    }


def _split(name: str) -> tuple[str, str]:
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


def _read_listing(root: str, listing: str, column: str, findings: Findings) -> dict[str, Entry]:
    found = Findings()  # its warnings speak of what training would do with the folder
    try:
        entries = read_folder(root, root, column, found, "")
    except ValueError as error:
        text = str(error).replace("data.caption_column", "caption_column").replace("data.folder", "source")
        raise ValueError(f"{text}\nOr move {listing} away to do without its captions.") from error
    try:
        found.raise_errors("", "")
    except ValueError as error:
        for line in str(error).split("\n  ")[1:]:
            findings.warn(f"problems in {listing}", line.strip())
    return {entry.file_name: entry for entry in entries}


def _read_lines(root: str, name: str, findings: Findings) -> list[str]:
    try:
        text, is_guess = decode_text(FolderSource(root).read(name))
    except (OSError, ValueError) as error:
        findings.warn("text files that cannot be read", f"{name} ({error})")
        return []
    if is_guess:
        findings.warn("text files in neither UTF-8 nor UTF-16, read as Latin-1", name)
    if "\0" in text:
        findings.warn("text files with NUL characters, which are not used", name)
        return []
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]


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
