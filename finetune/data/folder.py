"""List the images and captions of a folder. Captions are in a listing, or in text files beside the images."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from finetune.config.mask import MaskConfig
from finetune.data.captions.files import CAPTION_SUFFIXES, read_caption_files
from finetune.data.captions.found import refuse_puzzling
from finetune.data.captions.names import LISTINGS, TEXT_SUFFIXES, split_name
from finetune.data.captions.reading import CaptionReading
from finetune.data.folder_repeats import GIVE_BOTH, FolderRepeats, folder_repeats, note_class_images, note_splits
from finetune.data.images.decode import PLUGINS
from finetune.data.listing import Entry, Findings, read_captions
from finetune.data.metadata_files import read_listing
from finetune.data.refusals import prepare_command
from finetune.data.visible_files import (
    LIKELY_MASK,
    MASK_SUFFIX,
    PLUGIN_SUFFIXES,
    UNREAD_SUFFIXES,
    FolderSource,
    condition_images,
    is_image_name,
)
from finetune.extras import install_command
from finetune.plurals import first_few


def read_folder(
    root: str,
    shown: str,
    files: Sequence[str],
    reading: CaptionReading,
    findings: Findings,
    captions: Literal["listed", "folder", "none"],
    mask: MaskConfig,
    repeats: FolderRepeats,
) -> list[Entry]:
    """Return the images that a folder lists, with their captions.

    Raises ValueError where there are no images or no captions at all; anything else is noted. `shown` is the folder as
    the user wrote it, `files` are its visible ones. Captions are listed with the images, or are the
    names of their folders, or empty. Masks do not count as images: NAME-masklabel.png beside a NAME.jpg, and the files
    in mask.folder.
    """
    if any(name.endswith(".parquet") for name in files):
        from finetune.data.hub import lists_of_folders

        lists_of_folders(root, files, findings)
    images = _without_masks(files, root, mask, findings)
    unread = [name for name in files if split_name(name)[1] in UNREAD_SUFFIXES and not is_image_name(name)]
    for name in unread:
        findings.warn(_why_unread(split_name(name)[1]), name)
    sidecars = [name for name in files if split_name(name)[1] in TEXT_SUFFIXES]
    listings = [name for name in LISTINGS if name in files]
    if captions != "listed":
        unread_because = reading.unread if captions == "none" else f"data.captions is {captions}"
        for name in [*listings, *sidecars]:
            findings.warn(f"captions that are not read because {unread_because}", name)
    elif listings:
        return _read_listed(root, shown, (listings, sidecars, images), reading, findings)
    if not images:
        findings.raise_errors(f"data.folder: {shown} cannot be read:", "Check the permissions.")
        raise ValueError(
            f"data.folder: there are no images in {shown}. Expected metadata.jsonl, or images with .txt captions. "
            "Put them there, or prepare others: python -m datasets_prep --source FOLDER --output PREPARED"
            + (f"\nSave these as PNG or JPEG, their format is not read: {first_few(unread)}" if unread else "")
        )
    note_class_images(images, GIVE_BOTH, findings)
    note_splits(images, findings)
    named = folder_repeats(images, repeats, "data.folder_repeats", findings)
    if captions == "none":
        entries = [Entry(name, ("",)) for name in images]
    elif captions == "folder":
        entries = [_named_by_folder(name, named, findings) for name in images]
    else:
        texts = _read_sidecars(root, files, images, reading, findings)
        if not texts:
            findings.raise_errors(f"data.folder: {shown} cannot be trained on as it is:", "Correct these.")
            raise ValueError(_no_captions(shown, len(images), files))
        entries = [Entry(name, read_captions([*texts.get(name, [])], name, findings)) for name in images]
    return [_repeated(entry, named) for entry in entries]


def _read_listed(
    root: str,
    shown: str,
    files: tuple[Sequence[str], Sequence[str], Sequence[str]],
    reading: CaptionReading,
    findings: Findings,
) -> list[Entry]:
    """List the images of metadata.jsonl or metadata.csv. `files` are listings, text files and images."""
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


def _no_captions(shown: str, num_images: int, files: Sequence[str]) -> str:
    below = [name for name in files if posixpath.basename(name) in LISTINGS]
    return (
        f"data.folder: {shown} contains {num_images:,} images but no captions: no metadata.jsonl, and no .txt or "
        f".caption file beside an image. Run: {prepare_command(shown)}"
        + (f"\nOr give a folder further down that has them: {first_few(below)}" if below else "")
    )


def _repeated(entry: Entry, named: Mapping[str, tuple[int, str]]) -> Entry:
    folder = posixpath.dirname(entry.file_name)
    return replace(entry, repeats=named[folder][0]) if folder in named else entry


def _without_masks(files: Sequence[str], root: str, mask: MaskConfig, findings: Findings) -> list[str]:
    names = [name for name in files if is_image_name(name)]
    texts = {stem for stem, suffix in map(split_name, files) if suffix in TEXT_SUFFIXES}
    masks = _masks_among(names, texts, root, mask)
    stems = {split_name(name)[0] for name in names if name not in masks}
    for name in names:
        stem = split_name(name)[0]
        if name in masks and mask.kind != "file":
            findings.warn(f"masks that are not used because mask.kind is {mask.kind}", name)
        elif name in masks and stem.endswith(MASK_SUFFIX) and stem.removesuffix(MASK_SUFFIX) not in stems:
            findings.warn("masks without an image of their name", name)
        elif name not in masks and LIKELY_MASK.search(stem) and LIKELY_MASK.sub("", stem) in stems:
            kind = f"images that are named as the mask of another; rename them to NAME{MASK_SUFFIX} if they are"
            findings.warn(kind, name)
    images = [name for name in names if name not in masks]
    conditions = condition_images(images, (), findings)
    return [name for name in images if name not in conditions]


def _masks_among(names: list[str], captioned: set[str], root: str, mask: MaskConfig) -> set[str]:
    """Tell masks by their names. One without its image that is `captioned`, a stem of a text file, is an image."""
    stems = {name: split_name(name)[0] for name in names}
    images = set(stems.values())
    of_masks = [(name, stem) for name, stem in stems.items() if stem.endswith(MASK_SUFFIX)]
    found = {name for name, stem in of_masks if stem.removesuffix(MASK_SUFFIX) in images or stem not in captioned}
    if mask.folder is not None:
        folder = os.path.relpath(os.path.abspath(mask.folder), root)
        found |= {name for name in names if folder == posixpath.dirname(name) or name.startswith(f"{folder}/")}
    return found


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


def _read_sidecars(
    root: str, files: Sequence[str], images: Sequence[str], reading: CaptionReading, findings: Findings
) -> dict[str, list[str]]:
    chosen = [name for name in files if split_name(name)[1] in CAPTION_SUFFIXES]
    found = read_caption_files(FolderSource(root).read, [*images, *chosen], is_image_name, reading, findings)
    refuse_puzzling(found, images, reading, findings)
    return found.captions
