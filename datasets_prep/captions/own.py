"""Captions of the source, captions from names, and the trigger."""

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from datasets_prep.captions.name_words import name_in_words
from datasets_prep.records import Rejected
from finetune.data.captions.files import read_caption_files
from finetune.data.captions.found import refuse_puzzling, refuse_unusable
from finetune.data.captions.names import JSON_SUFFIX, LISTINGS, TEXT_SUFFIXES, split_name
from finetune.data.captions.reading import CaptionReading, Read, UnreadableTextError
from finetune.data.folder_repeats import GIVE_BOTH, FolderRepeats, folder_repeats, note_class_images, note_splits
from finetune.data.listing import NOT_TEXT, Entry, Findings
from finetune.data.metadata_files import read_listing
from finetune.data.visible_files import CONDITION_SUFFIX, IMAGE_SUFFIXES, MASK_SUFFIX, UNREAD_SUFFIXES


def read_sidecars(
    read: Read, sources: Sequence[str], reading: CaptionReading, findings: Findings, *, is_keyed: bool = False
) -> tuple[dict[str, list[str]], set[str]]:
    """Read captions by source, and list the files that had them. Files that seem to have captions but are not
    understood are an error where an image has no caption otherwise."""
    found = read_caption_files(read, sources, is_image_name, reading, findings, is_keyed=is_keyed)
    images = [name for name in sources if is_image_name(name) and not is_mask_name(name)]
    refuse_puzzling(found, images, reading, findings)
    return found.captions, found.used


def is_image_name(name: str) -> bool:
    """Recognize the suffix of an image. Formats that are not read count too."""
    return split_name(name)[1] in IMAGE_SUFFIXES | UNREAD_SUFFIXES


def is_mask_name(name: str) -> bool:
    """Recognize the name of a mask, or of a condition image."""
    return split_name(name)[0].endswith((MASK_SUFFIX, CONDITION_SUFFIX))


def read_folder_entries(
    root: str, read: Read, sources: Sequence[str], reading: CaptionReading, findings: Findings
) -> dict[str, Entry]:
    """Read one entry for every file except caption files. Captions come first from metadata.jsonl or metadata.csv, at
    the top of the folder or in folders below, each of which lists its own folder; then from files beside the images and
    lists in other forms. Weight, repeats and split are those of the listing nearest to the image."""
    listed: dict[str, Entry] = {}
    used = set()
    not_text: dict[str, tuple[str, list[str]]] = {}
    for listing in _listings(sources):
        found_in = Findings()  # its warnings speak of what training would do with the folder
        entries = _read_listing(root, listing, sources, reading, found_in, findings)
        if entries is None:
            continue
        if items := found_in.errors_of(NOT_TEXT):
            not_text[listing] = items[0], [entry.file_name for entry in entries if not entry.captions]
        used.add(listing)
        for entry in entries:
            above = listed.get(entry.file_name)
            listed[entry.file_name] = (
                entry if above is None else replace(entry, captions=above.captions + entry.captions)
            )
    for name in sorted(set(listed).difference(sources)):
        findings.warn("images that a listing mentions but that are not there", name)
    found = read_caption_files(read, [name for name in sources if name not in used], is_image_name, reading, findings)
    entries = joined_entries([name for name in sources if name not in used | found.used], listed, found.captions)
    bare = [name for name, entry in entries.items() if not entry.captions and is_image_name(name)]
    refuse_puzzling(found, [name for name in bare if not is_mask_name(name)], reading, findings)
    for listing, (item, owners) in not_text.items():
        if set(bare).intersection(owners):
            findings.error(f"{NOT_TEXT} (--{reading.column_option})", f"{listing}: {item}")
    for name in sorted(listed.keys() & found.captions.keys()):
        if set(found.captions[name]) - set(listed[name].captions):
            findings.warn("images with other captions beside them than in the listing; each is drawn from", name)
    return entries


def with_folder_repeats(entries: Mapping[str, Entry], choice: FolderRepeats, findings: Findings) -> Mapping[str, Entry]:
    """Apply the repeats of folders such as 10_NAME. Repeats of a listing win."""
    images = [name for name in entries if is_image_name(name) and not is_mask_name(name)]
    note_class_images(images, f"prepare each by itself and {GIVE_BOTH}", findings)
    note_splits(images, findings)
    named = folder_repeats(images, choice, "folder_repeats", findings)
    if not named:
        return entries
    return {
        name: replace(entry, repeats=named[posixpath.dirname(name)][0])
        if entry.repeats == 1 and posixpath.dirname(name) in named
        else entry
        for name, entry in entries.items()
    }


def refuse_lost_captions(rejected: Iterable[Rejected], entries: Mapping[str, Entry], findings: Findings) -> None:
    """Report caption files that cannot be opened, such as broken links. Only those of images without another caption
    are errors. `rejected` are the files of the source that cannot be opened."""
    lost = [each for each in rejected if split_name(each.source)[1] in (*TEXT_SUFFIXES, JSON_SUFFIX)]
    if not lost:
        return
    bare = {name for name, entry in entries.items() if is_image_name(name) and not entry.captions}
    named = bare | {split_name(name)[0] for name in bare}
    for each in lost:
        if split_name(each.source)[0] in named:
            refuse_unusable(each.source, each.detail, findings)


def joined_entries(
    sources: Iterable[str], listed: Mapping[str, Entry], texts: Mapping[str, Sequence[str]]
) -> dict[str, Entry]:
    """Join each listed entry with the texts beside it, without repeats."""
    entries = {name: listed.get(name, Entry(name, ())) for name in sources}
    return {
        name: replace(entry, captions=tuple(dict.fromkeys([*entry.captions, *texts.get(name, ())])))
        for name, entry in entries.items()
    }


def warn_of_errors(found: Findings, place: str, findings: Findings) -> None:
    """Turn errors of a listing into warnings. A wrong line or row does not stop a preparation."""
    try:
        found.raise_errors("", "")
    except ValueError as error:
        for line in str(error).split("\n  ")[1:]:
            findings.warn(f"problems in {place}", line.strip())


def _listings(sources: Iterable[str]) -> list[str]:
    """One listing per folder, upper folders first."""
    by_folder: dict[str, str] = {}
    for name in sorted((name for name in sources if posixpath.basename(name) in LISTINGS), reverse=True):
        by_folder.setdefault(posixpath.dirname(name), name)  # .jsonl comes before .csv
    return sorted(by_folder.values(), key=lambda name: (name.count("/"), os.fsencode(name)))


def _read_listing(
    root: str, listing: str, sources: Sequence[str], reading: CaptionReading, found: Findings, findings: Findings
) -> list[Entry] | None:
    """Read a listing, its faults into `found`. None for a file in a folder below that only shares the name."""
    folder, name = posixpath.split(listing)
    start = f"{folder}/" if folder else ""
    names = [source.removeprefix(start) for source in sources if source.startswith(start)]
    try:
        place = os.path.join(root, folder) if folder else root
        entries = read_listing(place, place, name, reading, found, names)
    except ValueError as error:
        if folder and "file_name" not in str(error) and not isinstance(error, UnreadableTextError):
            findings.warn("listings below the top that list no images", listing)
            return None
        text = str(error).replace("data.folder", "source")
        raise ValueError(f"{text}\nOr move {listing} away to do without its captions.") from error
    warn_of_errors(found, listing, findings)
    return [replace(entry, file_name=posixpath.join(folder, entry.file_name)) for entry in entries]


def made_caption(source: str, trigger: str | None, findings: Findings) -> str:
    """Make a caption from file name, folder or trigger. The first that says something is used. The result is empty
    where none does, because a meaningless name would be learned as a caption."""
    folder, file_name = posixpath.split(source)
    named = {
        "the file name": name_in_words(posixpath.splitext(file_name)[0]),
        "the folder's name, because the file name says nothing": name_in_words(posixpath.basename(folder)),
        "the trigger alone, because no name says anything": trigger,
    }
    for origin, text in named.items():
        if text:
            findings.warn(f"images without a caption, which got one made from {origin}", source)
            return text
    findings.warn(
        "images without a caption, which stay without one because neither their names nor their folders' say "
        "anything; add caption files, name a --trigger, or have them described with --captions.captioner",
        source,
    )
    return ""


def with_trigger(caption: str, trigger: str | None) -> str:
    """Append the trigger, unless the caption contains it."""
    if trigger is None or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{caption}, {trigger}"
