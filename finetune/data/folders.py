"""Several folders of images, each with its options, as one dataset."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from finetune.config.folders import TrainingFolder
from finetune.config.mask import NO_MASKS, MaskConfig
from finetune.config.sections import DataConfig
from finetune.data.class_images import CLASS_PREFIX, TOLERANCE, is_class_image, with_class_images
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import ImageSource
from finetune.data.manifest import Manifest, Record, configured_manifest
from finetune.plurals import plural

Captions = Literal["listed", "folder", "none"]
HeldOut = Callable[[Sequence[Record]], Collection[int]]
"""Chooses the records that validation keeps."""
LONGEST_PASS = 5_000_000
"""Samples; shares that would need more are refused."""


@dataclass(frozen=True)
class JoinedSource:
    """The images of several sources. The first part of a file name is its source's label."""

    parts: Mapping[str, ImageSource]

    def read(self, file_name: str) -> bytes:
        """Return an image's original bytes."""
        label, _, name = file_name.partition("/")
        return self.parts[label].read(name)


@dataclass(frozen=True)
class FolderCount:
    """The part of one folder in what is trained."""

    label: str
    """The folder's last part, as in file names."""
    location: str
    is_class: bool
    num_images: int
    num_samples: int
    """Of a pass over all folders."""
    share: float


def read_folders(
    data: DataConfig,
    mask: MaskConfig,
    captions: tuple[Captions, Captions],
    unread: str,
    held_out: HeldOut,
    kept: KeptFiles | None = None,
) -> Manifest:
    """Return the checked images of data.folders as one manifest. `captions` are the sources of captions, and those of
    class images. Repeats are such that shares hold, and that class images are half of the samples."""
    refuse_nested(data.folders)
    kept, names = kept or KeptFiles(), labels([each.folder for each in data.folders])
    own: list[tuple[str, Manifest]] = []
    of_class: list[tuple[str, Manifest]] = []
    for label, each in zip(names, data.folders, strict=True):
        read = _read(each, data, mask, captions[each.is_regularisation], unread, kept)
        (of_class if each.is_regularisation else own).append((label, _labelled(read, label, each)))
    places = dict(zip(names, (each.folder for each in data.folders), strict=True))
    shares = [each.share for each in data.folders if not each.is_regularisation]
    joined = _joined(own, places, kept)
    if any(share is not None for share in shares):
        joined = _with_shares(joined, [label for label, _ in own], shares, held_out(joined.records))
    if of_class:
        images = _joined(of_class, places, kept)
        joined = with_class_images(joined, images, prompt=None, weight=1.0, held_out=held_out(joined.records))
    return joined


def _read(
    each: TrainingFolder, data: DataConfig, mask: MaskConfig, captions: Captions, unread: str, kept: KeptFiles
) -> Manifest:
    """Read one folder by itself. Its errors name data.folders."""
    trigger = None if each.is_regularisation else each.trigger or data.trigger
    own = replace(data, folder=each.folder, folders=(each,), trigger=trigger)
    uses_masks = each.mask and not each.is_regularisation
    masks = replace(mask, folder=each.mask_folder) if uses_masks and mask.kind != "none" else NO_MASKS
    if each.caption is not None:
        captions, unread = "none", "data.folders gives one caption for all"
    elif each.captions is not None:
        captions, unread = each.captions, "data.folders has captions none"
    try:
        return configured_manifest(own, masks, captions, unread, kept)
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("data.folder:", "data.folders:")) from error


def _labelled(manifest: Manifest, label: str, each: TrainingFolder) -> Manifest:
    records = tuple(
        replace(
            record,
            file_name=f"{label}/{record.file_name}",
            weight=record.weight * each.weight,
            repeats=record.repeats * each.repeats,
            resolution=each.resolution,
            mask=record.mask and replace(record.mask, file_name=f"{label}/{record.mask.file_name}"),
        )
        for record in manifest.records
    )
    return replace(manifest, records=records, warnings=tuple(f"{label}: {text}" for text in manifest.warnings))


def _joined(parts: Sequence[tuple[str, Manifest]], places: Mapping[str, str], kept: KeptFiles) -> Manifest:
    masks = {label: part.masks for label, part in parts if part.masks is not None}
    records = sorted((each for _, part in parts for each in part.records), key=lambda each: os.fsencode(each.file_name))
    return Manifest(
        tuple(records),
        JoinedSource({label: part.source for label, part in parts}),
        ", ".join(part.location for _, part in parts),
        tuple(text for _, part in parts for text in part.warnings),
        JoinedSource(masks) if masks else None,
        kept,
        places,
        ", ".join(label for label, _ in parts),
    )


def _with_shares(
    manifest: Manifest, own: Sequence[str], shares: Sequence[float | None], held_out: Collection[int]
) -> Manifest:
    """Repeat the images of each folder to give it its share."""
    samples = dict.fromkeys(own, 0)
    for number, record in enumerate(manifest.records):
        samples[label_of(record)] += 0 if number in held_out else record.repeats
    for label in [label for label, num in samples.items() if not num]:
        raise ValueError(
            f"data.folders: no image of {manifest.places[label]} is left to train on. Lower validation.fraction, or "
            "omit the folder."
        )
    factors = dict(zip(own, factors_of(list(samples.values()), shares), strict=True))
    records = (replace(each, repeats=each.repeats * factors[label_of(each)]) for each in manifest.records)
    return replace(manifest, records=tuple(records))


def factors_of(samples: Sequence[int], shares: Sequence[float | None]) -> list[int]:
    """Return how often each folder's samples are repeated. Shares then hold within `TOLERANCE` of themselves; folders
    without one keep their repeats to each other."""
    free = sum(num for num, share in zip(samples, shares, strict=True) if share is None)
    given = [(num, share) for num, share in zip(samples, shares, strict=True) if share is not None]
    whole = free / (1 - sum(share for _, share in given)) if free else max(num / share for num, share in given)
    times = 1
    while whole * times <= LONGEST_PASS:
        factors = [
            times if share is None else max(1, round(share * whole * times / num))
            for num, share in zip(samples, shares, strict=True)
        ]
        total = sum(num * factor for num, factor in zip(samples, factors, strict=True))
        parts = zip(samples, factors, shares, strict=True)
        if all(share is None or abs(num * factor / total / share - 1) <= TOLERANCE for num, factor, share in parts):
            return factors
        times += 1
    raise ValueError(
        f"data.folders: with these shares a pass has more than {LONGEST_PASS:,} samples. Bring shares and numbers of "
        "images closer to each other, or use repeats."
    )


def labels(folders: Sequence[str]) -> list[str]:
    """Return a name for each folder. It is the last part, with a number where that is taken."""
    found: list[str] = []
    for folder in folders:
        base = os.path.basename(os.path.abspath(folder)) or "images"
        numbers = (f"{base}-{number}" for number in range(2, len(folders) + 2))
        found.append(base if base not in found else next(name for name in numbers if name not in found))
    return found


def refuse_nested(folders: Sequence[TrainingFolder]) -> None:
    """Refuse a folder within another, whose images would be read twice."""
    paths = {each.folder: Path(os.path.realpath(each.folder)) for each in folders if os.path.isdir(each.folder)}
    for inner, path in paths.items():
        for outer, other in paths.items():
            if path != other and path.is_relative_to(other):
                raise ValueError(
                    f"data.folders: {inner} is in {outer}, so its images would be read twice. List the folders beside "
                    "each other, or only the outer one."
                )


def label_of(record: Record) -> str:
    """Return the label of the folder that an image is from."""
    return record.file_name.removeprefix(CLASS_PREFIX).partition("/")[0]


def folder_counts(manifest: Manifest, held_out: Collection[int]) -> list[FolderCount]:
    """Count trained images and samples by folder; empty for a single one."""
    images, samples = dict.fromkeys(manifest.places, 0), dict.fromkeys(manifest.places, 0)
    of_class: set[str] = set()
    for number, record in enumerate(manifest.records):
        if manifest.places and number not in held_out:
            images[label_of(record)] += 1
            samples[label_of(record)] += record.repeats
        if manifest.places and is_class_image(record):
            of_class.add(label_of(record))
    total = max(1, sum(samples.values()))
    return [
        FolderCount(label, place, label in of_class, images[label], samples[label], samples[label] / total)
        for label, place in manifest.places.items()
    ]


def count_lines(counts: Sequence[FolderCount]) -> list[str]:
    """Describe the part of each folder in a line."""
    return [
        f"  folder {each.label}: {plural(each.num_images, 'class image' if each.is_class else 'image')}, "
        f"{each.num_samples:,} samples of a pass ({each.share:.1%})"
        for each in counts
    ]
