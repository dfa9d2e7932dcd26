"""Which image of a group of near-duplicates is kept: the one that shows most, with the least done to it.

In order: pixels within the border, where a larger image holds detail that smaller ones lack (an enlargement holds
none); the narrowest border; colour; a JPEG quality that shows no blocks; captions of its own. Of more than two, the one
that is most like all others: an edit differs from its original by less than from another edit. Of two, the order in
which images are ranked anyway.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from datasets_prep.appearances import KeptBytes
from datasets_prep.records import Copy
from finetune.data.similarity import border_box

SAME_SIZE = 1.1
"""Ratio of sides up to which two images are as large."""
LEAST_DETAIL = 0.57
"""Share of the detail of a smaller image, at its own finest scale, that a larger one has at its finest scale unless it
was enlarged. Of eight photographs of 768 pixels: at least 0.59 against their copies reduced by 1.5 and 2; copies
enlarged by 1.5 at most 0.56, by 2 at most 0.38, with three kernels and JPEG 95 and 75 (benchmarks/keeper.py)."""
POOR_QUALITY = 60.0
"""Of JPEG, below which blocks show."""
THUMBNAIL = 32


@dataclass(frozen=True)
class Member:
    """One image of a group."""

    number: int
    rank: int
    """Its place in the order of all images; the first is kept where nothing else decides."""
    quality: float
    """Of JPEG, 0 to 100; 100 where nothing is lost."""
    has_caption: bool


@dataclass(frozen=True)
class Facts:
    """What is measured of one whole image."""

    side: float
    """Of the square with the area within the border."""
    border: float
    """How often that area fits the whole image."""
    colour: float
    """How far channels differ in the middle, in levels."""
    thumbnail: np.ndarray
    """What is within the border, as 32 x 32 grey levels [1024]."""


class Details:
    """Figures of whole images, kept by content; an image that is asked for again at once is not opened again."""

    def __init__(self, load: Callable[[int], Image.Image], kept: KeptBytes) -> None:
        self._load, self._kept = load, kept
        self._open: tuple[int, Image.Image, Image.Image] | None = None

    def facts(self, number: int) -> Facts:
        """Returns the facts of an image."""
        area, whole, colour, *levels = self._known(number, "facts", facts_of)
        return Facts(float(area) ** 0.5, float(whole / area), float(colour), np.array(levels))

    def detail(self, number: int, factor: float) -> float:
        """Returns the root mean square, in levels, of what is lost where an image is reduced by a factor."""
        return float(self._known(number, f"detail {factor:.2f}", lambda image, inside: lost(inside, factor))[0])

    def _known(self, number: int, what: str, measure: Callable[[Image.Image, Image.Image], np.ndarray]) -> np.ndarray:
        kept = self._kept.get(number, f"keeper {what}")
        if kept is not None:
            return np.frombuffer(kept, np.float64)
        if self._open is None or self._open[0] != number:
            image = self._load(number)
            grey = image.convert("L")
            self._open = number, image, grey.crop(border_box(grey))
        found = measure(*self._open[1:]).astype(np.float64)
        self._kept.put(number, f"keeper {what}", found.tobytes())
        return found


def facts_of(image: Image.Image, inside: Image.Image) -> np.ndarray:
    """Returns pixels within the border, all pixels, colour, and the thumbnail, [1027]; `inside` is the grey image
    within its border."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.int16)
    colour = float((small.max(2) - small.min(2)).mean())
    thumbnail = np.asarray(inside.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float64)
    return np.array([inside.width * inside.height, image.width * image.height, colour, *thumbnail.ravel()])


def lost(grey: Image.Image, factor: float) -> np.ndarray:
    """Returns what `Details.detail` says, [1]."""
    size = max(1, round(grey.width / factor)), max(1, round(grey.height / factor))
    reduced = grey.resize(size, Image.Resampling.LANCZOS).resize(grey.size, Image.Resampling.BICUBIC)
    difference = np.asarray(grey, np.float32) - np.asarray(reduced, np.float32)
    return np.sqrt(np.mean(difference**2, keepdims=True).ravel())


def best_member(members: Sequence[Member], details: Details) -> Member:
    """Returns the member to keep."""
    facts = {member.number: details.facts(member.number) for member in members}
    enlarged = enlargements({number: each.side for number, each in facts.items()}, details)
    left = [member for member in members if member.number not in enlarged]
    largest = max(facts[member.number].side for member in left)
    left = [member for member in left if facts[member.number].side * SAME_SIZE >= largest]
    left = smallest(left, lambda member: facts[member.number].border, 1.05)
    left = smallest(left, lambda member: -facts[member.number].colour, 2.0)
    left = [member for member in left if member.quality >= POOR_QUALITY] or left
    left = [member for member in left if member.has_caption] or left
    if len(members) > 2:
        return most_alike(left, {number: each.thumbnail for number, each in facts.items()})
    return min(left, key=lambda member: member.rank)


def smallest(members: Sequence[Member], figure: Callable[[Member], float], slack: float) -> list[Member]:
    """Returns the members whose figures are the smallest, up to a factor."""
    figures = [figure(member) for member in members]
    least = min(figures)
    most = least * slack if least > 0 else least / slack
    return [member for member, each in zip(members, figures, strict=True) if each <= most]


def enlargements(sides: Mapping[int, float], details: Details) -> set[int]:
    """Returns the images that are larger than others and hold no detail which most of those lack."""
    pairs = [(one, other, sides[one] / sides[other]) for one in sides for other in sides]
    pairs = [pair for pair in pairs if pair[2] > SAME_SIZE]
    asked = sorted({(number, factor) for one, other, factor in pairs for number in (one, other)})
    detail = {each: details.detail(*each) for each in asked}  # image by image, so none is opened twice
    lacks: dict[int, list[bool]] = {}
    for one, other, factor in pairs:
        lacks.setdefault(one, []).append(detail[one, factor] < LEAST_DETAIL * detail[other, factor])
    return {number for number, each in lacks.items() if 2 * sum(each) > len(each)}


def most_alike(members: Sequence[Member], thumbnails: Mapping[int, np.ndarray]) -> Member:
    """Returns the member whose thumbnail differs least from those of all, in sum."""
    others = np.stack(list(thumbnails.values()))

    def difference(member: Member) -> float:
        return float(np.abs(others - thumbnails[member.number]).mean(1).sum())

    return min(members, key=difference)


def with_best_keepers(
    near: Mapping[int, Copy],
    member: Callable[[int], Member],
    is_fixed: Callable[[int], bool],
    details: Details,
    name: Callable[[int], str],
) -> dict[int, Copy]:
    """Returns the near-duplicates of each group as repeats of its best member.

    Groups with an image that must stay (`is_fixed`) stay as they are.
    """
    groups: dict[int, list[int]] = {}
    for number, copy in near.items():
        groups.setdefault(copy.keeper, []).append(number)
    found = dict(near)
    for keeper, copies in groups.items():
        if any(is_fixed(number) for number in (keeper, *copies)):
            continue
        best = best_member([member(number) for number in (keeper, *copies)], details).number
        if best == keeper:
            continue
        found[keeper] = replace(found.pop(best), keeper=best)
        for number in copies:
            if number != best:
                detail = f"{near[number].detail}, compared with {name(keeper)}"
                found[number] = replace(near[number], keeper=best, detail=detail)
    return found
