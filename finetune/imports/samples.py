"""Numbers of samples in an epoch, and repeats that give them; torch-free."""

import posixpath
from dataclasses import replace
from pathlib import Path

from finetune.config.trainers.tables import spelled_value
from finetune.data.captions.names import TEXT_SUFFIXES
from finetune.data.folder_repeats import repeats_in_name
from finetune.imports.given import Folder, Given


def images_in(path: str) -> list[str]:
    """List images of a folder with its subfolders. An absent one has none."""
    if not Path(path).is_dir():
        return []
    from finetune.data.listing import Findings
    from finetune.data.visible_files import IMAGE_SUFFIXES, visible_files

    names = visible_files(path, Findings())
    return [name for name in names if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES]


def caption_files(path: str) -> list[str]:
    """List text files of a folder, with its subfolders."""
    place = Path(path)
    if not place.is_dir():
        return []
    return sorted(each.name for each in place.rglob("*") if each.suffix.lower() in TEXT_SUFFIXES)


def num_in_pass(path: str) -> int:
    """Count the images of a pass. Folders called 10_NAME repeat theirs."""
    return sum(repeats_in_name(posixpath.dirname(name)) for name in images_in(path))


def fixed_samples(folder: Folder) -> float | None:
    """Return the samples of an epoch where their config says them."""
    is_fixed = spelled_value(folder.options.get("balancing_strategy")) == "samples"
    return float(str(folder.options.get("balancing", 1))) if is_fixed else None


def num_samples(folder: Folder) -> float | None:
    """Return the samples that an epoch there has of a folder. None where it is not here to be counted."""
    fixed = fixed_samples(folder)
    return fixed if fixed is not None else num_in_pass(folder.path) * float(folder.repeats) or None


def with_samples_as_repeats(given: Given) -> tuple[Given, list[str]]:
    """Replace numbers of samples by repeats. Also return lines on folders that cannot be counted."""
    folders: list[Folder] = []
    notes: list[str] = []
    for folder in given.folders:
        fixed = fixed_samples(folder)
        if fixed is None:
            folders.append(folder)
            continue
        counted = num_in_pass(folder.path)
        folders.append(replace(folder, repeats=fixed / counted if counted else 1))
        if not counted:
            what = "repeats are that by its images" if given.is_several else "train.epochs counts passes"
            notes.append(
                f"{folder.where} {folder.path}: balancing {fixed:g} SAMPLES is {fixed:g} samples an epoch; here "
                f"{what}, and the folder is not here to be counted: 1 repeat is written. Import where the images are."
            )
    return replace(given, folders=tuple(folders)), notes
