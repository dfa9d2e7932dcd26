"""Masks among images, recognized by names and pixels. Each follows its image to the output."""

import posixpath
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets_prep.captions.own import is_image_name
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.loader import Loader
from datasets_prep.records import Rejected
from datasets_prep.selection import Selection
from finetune.data.captions.names import split_name
from finetune.data.listing import Findings
from finetune.data.visible_files import LIKELY_MASK, MASK_SUFFIX, condition_images

MASK_FOLDERS = frozenset((
    "mask", "masks", "mask_labels", "masklabels", "seg", "segmentation", "segmentations", "matte", "mattes", "alpha",
    "silhouettes",
))  # fmt: skip
MASK_START = re.compile(r"^(?:mask|seg|segmentation|matte|alpha|silhouette)[-_. ](?=.)", re.IGNORECASE)
"""mask_x.png may be a mask of x.png."""
MOST_SATURATION = 2.0
"""Of a grey image, in levels of 255; JPEG leaves a little."""
TWO_TONE_SHARE = 0.8
"""Least share of a mask's pixels that are nearly black or nearly white; the rest are soft edges."""
MARGIN = 32


@dataclass(frozen=True)
class Masks:
    """The images that are masks."""

    of_image: Mapping[int, int] = field(default_factory=dict)
    """Index of an image -> index of its mask."""
    unused: Mapping[int, str] = field(default_factory=dict)
    """Index of a mask that no image can use -> reason."""

    @property
    def indices(self) -> list[int]:
        """All masks, in rising order."""
        return sorted({*self.of_image.values(), *self.unused})


@dataclass(frozen=True)
class Candidate:
    """A file with a name like that of a mask."""

    index: int
    stems: tuple[str, ...]
    """Possible names of its image without suffix; the first that exists counts."""
    beside: tuple[str, str] | None
    """For a mask in a folder of masks: the folder above that, and the stem below it."""
    is_certain: bool
    """True if the name alone decides."""


def find_masks(images: MeasuredImages, rejected: Iterable[Rejected], loader: Loader, findings: Findings) -> Masks:
    """Find the masks among the images. Masks of images that do not decode (`rejected`) are masks too. NAME-masklabel is
    one by its name. NAME_mask, mask_NAME, NAME_seg etc. beside NAME, and the image of the same name in a folder called
    masks or similar, are masks where they are black and white and have the size of that image. Otherwise they stay
    images, with a note."""
    lost = {split_name(each.source)[0] for each in rejected}
    left_out = condition_images(images.sources, lost, findings)
    reason = "a condition image of OneTrainer, which no recipe uses"
    conditions = {index: reason for index, name in enumerate(images.sources) if name in left_out}
    candidates = [
        found
        for index, name in enumerate(images.sources)
        if index not in conditions and (found := candidate(index, name)) is not None
    ]
    if not candidates:
        return Masks(unused=conditions)
    owners = owners_of(candidates, images.sources)
    sure = [each for each in candidates if is_mask(each, owners.get(each.index), lost, images, loader)]
    masks = {each.index for each in sure}
    folders = {each.beside[0] for each in sure if each.beside is not None}
    for each in candidates:
        if each.index in masks:
            continue
        if each.index in owners:
            kind = "images that are named as masks but are not black and white of their image's size, and stay images"
            findings.warn(kind, images.sources[each.index])
        elif each.beside is not None and each.beside[0] in folders and is_two_tone(each.index, images, loader):
            masks.add(each.index)  # among masks in a folder of masks, what looks like one is one
    found = assigned(sorted(masks), owners, images, findings)
    return Masks(found.of_image, {**found.unused, **conditions})


def assigned(masks: Sequence[int], owners: Mapping[int, int], images: MeasuredImages, findings: Findings) -> Masks:
    """Assign each mask to its image, or note why it is unused."""
    of_image: dict[int, int] = {}
    unused: dict[int, str] = {}
    for mask in masks:
        name, owner = images.sources[mask], owners.get(mask)
        fault = "there is no usable image of its name" if owner is None else fault_of(mask, owner, images)
        if owner is not None and not fault and owner in of_image:
            fault = f"{images.sources[owner]} has another mask, {images.sources[of_image[owner]]}"
        if owner is None or fault:
            unused[mask] = fault
            findings.warn("masks that cannot be used", f"{name} ({fault})")
        else:
            of_image[owner] = mask
            findings.warn("masks, which go with their images; train with --mask.kind file to use them", name)
    return Masks(of_image, unused)


def candidate(index: int, name: str) -> Candidate | None:
    """Parse a file name as a mask's; None for other names."""
    stem = split_name(name)[0]
    plain = stem.removesuffix(MASK_SUFFIX)
    is_certain = plain != stem
    plain = plain if is_certain else likely_image(stem)
    folders = posixpath.dirname(name).split("/")
    lower = [folder.lower().replace("-", "_").replace(" ", "_") for folder in folders]
    place = next((place for place, folder in enumerate(lower) if folder in MASK_FOLDERS), None)
    if place is not None:
        above, below = "/".join(folders[:place]), "/".join([*folders[place + 1 :], posixpath.basename(plain)])
        stems = (posixpath.join(above, below), *((plain,) if plain != stem else ()))
        return Candidate(index, stems, (above, below), is_certain)
    return Candidate(index, (plain,), None, is_certain) if plain != stem else None


def likely_image(stem: str) -> str:
    """Derive an image's name without suffix from its mask's. Other names are returned unchanged."""
    folder, base = posixpath.split(stem)
    plain = LIKELY_MASK.sub("", base) or base
    if plain != base and is_image_name(plain):  # x.png.mask.png
        plain = split_name(plain)[0]
    return posixpath.join(folder, plain if plain != base else MASK_START.sub("", base))


def owners_of(candidates: Sequence[Candidate], sources: Iterable[str]) -> dict[int, int]:
    """Map masks to images that fit by name, both by index."""
    wanted = {stem for each in candidates for stem in each.stems}
    beside = {each.beside for each in candidates if each.beside is not None}
    masks = {each.index for each in candidates}
    by_stem: dict[str, int] = {}
    by_place: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(sources):
        if index in masks:
            continue
        stem = split_name(name)[0]
        if stem in wanted:
            by_stem.setdefault(stem, index)
        parts = stem.split("/")
        for place in range(len(parts) - 1) if beside else ():
            key = "/".join(parts[:place]), "/".join(parts[place + 1 :])
            if key in beside:
                by_place.setdefault(key, []).append(index)
    found: dict[int, int] = {}
    for each in candidates:
        near = [by_stem[stem] for stem in each.stems if stem in by_stem]
        near = near or (by_place.get(each.beside, []) if each.beside is not None else [])
        if near and (each.beside is None or len(set(near)) == 1):
            found[each.index] = near[0]
    return found


def is_mask(each: Candidate, owner: int | None, lost: Container[str], images: MeasuredImages, loader: Loader) -> bool:
    """Decide whether a candidate is a mask. `lost` are the names, without suffixes, of images that do not decode."""
    if each.is_certain:
        return True
    if owner is None:
        return any(stem in lost for stem in each.stems) and is_two_tone(each.index, images, loader)
    return size_of(each.index, images) == size_of(owner, images) and is_two_tone(each.index, images, loader)


def is_two_tone(index: int, images: MeasuredImages, loader: Loader) -> bool:
    """Check for the black and white of masks."""
    if images.score("saturation")[index] > MOST_SATURATION:
        return False
    levels = np.asarray(loader.small(index).convert("L"))
    return float(np.mean((levels < MARGIN) | (levels > 255 - MARGIN))) >= TWO_TONE_SHARE


def size_of(index: int, images: MeasuredImages) -> tuple[int, int]:
    """Width and height of an image."""
    return int(images.width[index]), int(images.height[index])


def fault_of(mask: int, image: int, images: MeasuredImages) -> str:
    """Explain why an image cannot use a mask; empty if it can."""
    size, expected = size_of(mask, images), size_of(image, images)
    if size != expected:
        return f"{size[0]}x{size[1]} pixels, expected the {expected[0]}x{expected[1]} of {images.sources[image]}"
    if images.score("brightness")[mask] == 0:
        return "black everywhere, with which nothing of the image would be trained on"
    return ""


def take_out_masks(selection: Selection, masks: Masks) -> None:
    """Remove masks from the selection. Whether they are written depends on their images."""
    if masks.indices:
        before = int(selection.is_in.sum())
        selection.is_in[masks.indices] = False
        selection.note("masks", before, f"{before - int(selection.is_in.sum()):,} are masks of images")


def masks_of_kept(selection: Selection, masks: Masks) -> dict[int, int]:
    """Map kept images to masks: their own, else a duplicate's. That must have the same pixels."""
    found = {image: mask for image, mask in masks.of_image.items() if selection.is_in[image]}
    for image in sorted(set(masks.of_image) & set(selection.duplicates)):
        duplicate = selection.final_duplicate(image)
        if duplicate.reason != "near_duplicate" and selection.is_in[duplicate.keeper]:
            found.setdefault(duplicate.keeper, masks.of_image[image])
    return found


def unused_masks(selection: Selection, masks: Masks, used: Mapping[int, int]) -> list[Rejected]:
    """List a rejection for every mask that follows no image."""
    sources, images = selection.images.sources, {mask: image for image, mask in masks.of_image.items()}
    taken, lines = set(used.values()), []
    for mask in masks.indices:
        if mask not in taken:
            detail = masks.unused.get(mask) or f"its image {sources[images[mask]]} is left out"
            lines.append(Rejected(sources[mask], "unused_mask", detail, sha256=selection.images.hex(mask)))
    return lines
