"""Measures that tell an original from its derivatives, cached by content."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from PIL import Image

from datasets_prep.duplicates.appearances import KeptBytes
from datasets_prep.duplicates.compression import quality_of
from datasets_prep.duplicates.consensus import Consensus, shared_information
from datasets_prep.duplicates.curves import changed_tones, tone_figures
from datasets_prep.duplicates.frames import SAME_CONTENT, Box, frame_of, may_be_framed, place_of, thumbnail
from datasets_prep.duplicates.made import Made
from datasets_prep.duplicates.pairs import made_of, pair_figures
from finetune.similarity.appearance import look_at

VERSION = 5
"""Increased when an image gets other measures."""
RIM = 32
"""The rim is the shorter side divided by this."""
BORDER_TOLERANCE = 6
"""Levels by which pixels of a border differ; plain backgrounds of photographs vary more."""
MORE_ALIKE = 0.01
"""How much higher the correlation of whole images must be to take an apparent border for content."""
SAME_INSIDE = 0.98
"""Correlation from which two images have the same within their borders."""
SAME_SHAPE = 1.05
"""Ratio of aspects up to which two boxes have the same shape."""
MOST_MIDDLES = 16
"""Images of a group that the others are compared with to find their common part."""
WHOLE, INSIDE = 0, 1
"""Parts of an image: all of it, and what is within its border."""


@dataclass(frozen=True)
class Opened:
    """An image that is being measured."""

    image: Image.Image
    parts: tuple[Image.Image, Image.Image]
    """Its parts in grey."""
    inside: Box


@dataclass(frozen=True)
class Facts:
    """Measures of one image and of its parts WHOLE and INSIDE."""

    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Width and height."""
    colour: float
    """How far channels differ in the middle, in levels."""
    quality: float
    """JPEG quality that the image once had, as its pixels show; 100 where they show none."""
    thumbnails: np.ndarray
    """32 x 32 grey levels [2 1024]."""

    def side(self, part: int) -> float:
        """Return the side of a square with the area of a part."""
        width, height = self.sizes[part]
        return (width * height) ** 0.5


class Details:
    """Measures of images, cached by content. The two images used last stay open."""

    def __init__(self, load: Callable[[int], Image.Image], kept: KeptBytes) -> None:
        self._load, self._kept = load, kept
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._frames: dict[int, Box] = {}

    def may_be_framed(self, number: int) -> bool:
        """Check whether an image is flat along a side, as frames are."""
        found = self._known(number, "rim", lambda: np.array([may_be_framed(self._opened(number).parts[WHOLE])]))
        return bool(found[0])

    def frame(self, number: int, other: int) -> tuple[Box, bool] | None:
        """Locate another image framed in this one, as `frame_of` does."""

        def measure() -> np.ndarray:
            found = frame_of(self._opened(number).image, self._opened(other).image)
            return np.array([*found[0], found[1]] if found else [0] * 5)

        *box, is_clear = (int(each) for each in self._known(number, f"framed {self._name(other)}", measure))
        left, top, right, bottom = box
        return ((left, top, right, bottom), bool(is_clear)) if right else None

    def take_inside(self, number: int, box: Box) -> None:
        """Take what is around a box for the border of an image."""
        self._frames[number] = box
        self._open.pop(number, None)

    def facts(self, number: int) -> Facts:
        found = self._facts(number)
        sizes, (colour, quality) = found[:4].astype(int), found[4:6].tolist()
        return Facts(((sizes[0], sizes[1]), (sizes[2], sizes[3])), colour, quality, found[6:].reshape(2, -1))

    def detail(self, number: int, part: int, factor: float) -> float:
        """Measure the detail that a part loses when reduced by a factor. It is the root mean square in levels."""
        what = f"detail {part} {factor:.2f}" + (self._frame_name(number) if part == INSIDE else "")
        return float(self._known(number, what, lambda: lost(self._opened(number).parts[part], factor))[0])

    def shared_detail(self, number: int, other: int, factor: float) -> float | None:
        """Measure the detail of the area that another image shows. None if the other image is not a crop of it."""

        def measure() -> np.ndarray:
            image, box = self._opened(number).image, place_of(self._opened(number).image, self._opened(other).image)
            return lost(image.convert("L").crop(box), factor) if box else np.array([-1.0])

        found = float(self._known(number, f"shared {self._name(other)} {factor:.2f}", measure)[0])
        return None if found < 0 else found

    def made_of(
        self, first: tuple[int, int], second: tuple[int, int], with_added: bool = True, with_scaled: bool = True
    ) -> Made:
        """Find which of two parts was made of the other. Each is an image and a part; both have the same size."""
        names = {each: self._name(each[0]) for each in (first, second)}
        one, other = sorted((first, second), key=lambda each: (names[each], each))

        def measure() -> np.ndarray:
            return pair_figures(*(self._opened(number).parts[part] for number, part in (one, other)))

        def measure_tones() -> np.ndarray:
            return tone_figures(*(self._colours(number, part) for number, part in (one, other)))

        pair = f"{one[1]} {names[other]} {other[1]}"
        found = made_of(self._known(one[0], f"pair {pair}", measure), with_added)
        if found is Made.UNKNOWN and with_added:
            found = changed_tones(self._known(one[0], f"tones {pair}", measure_tones), with_scaled)
        return found if one == first else found.swapped

    def consensus(self, numbers: Sequence[int]) -> Consensus:
        """Measure what images tell about each other, but for their borders."""
        names = sha256(" ".join(self._name(number) for number in numbers).encode()).hexdigest()[:24]

        def measure() -> np.ndarray:
            return shared_information([look_at(self._colours(number, INSIDE)) for number in numbers]).ravel()

        shared = self._known(numbers[0], f"consensus {names}", measure)
        return Consensus(numbers, shared.reshape(-1, len(numbers), len(numbers)))

    def _colours(self, number: int, part: int) -> Image.Image:
        opened = self._opened(number)
        return opened.image.crop(opened.inside) if part == INSIDE else opened.image

    def _facts(self, number: int) -> np.ndarray:
        return self._known(number, "facts" + self._frame_name(number), lambda: facts_of(self._opened(number)))

    def _name(self, number: int) -> str:
        return sha256(self._facts(number).tobytes()).hexdigest()[:24]

    def _frame_name(self, number: int) -> str:
        return f" {self._frames[number]}" if number in self._frames else ""

    def _known(self, number: int, what: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        key = number, f"keeper {VERSION} {what}"
        kept = self._kept.get(key)
        if kept is not None:
            return np.frombuffer(kept, np.float32)
        found = measure().astype(np.float32)
        self._kept[key] = found.tobytes()
        return found

    def _opened(self, number: int) -> Opened:
        if number not in self._open:
            while len(self._open) > 1:
                self._open.popitem(last=False)
            image = self._load(number)
            grey = image.convert("L")
            inside = self._frames.get(number) or inside_of(grey)
            self._open[number] = Opened(image, (grey, grey.crop(inside)), inside)
        self._open.move_to_end(number)
        return self._open[number]


def inside_of(grey: Image.Image) -> tuple[int, int, int, int]:
    """Crop one-coloured rows and columns: left, top, right, bottom."""
    pixels = np.asarray(grey, np.int16)
    differs = np.abs(pixels - pixels[0, 0]) > BORDER_TOLERANCE
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 0, 0, grey.width, grey.height
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def facts_of(opened: Opened) -> np.ndarray:
    """Measure the fields of `Facts` as one row."""
    small = np.asarray(opened.image.resize((64, 64), Image.Resampling.BOX), np.int16)
    rows = [*opened.parts[WHOLE].size, *opened.parts[INSIDE].size, (small.max(2) - small.min(2)).mean()]
    rows.append(quality_of(opened.parts[WHOLE]))
    for grey in opened.parts:
        rows += list(thumbnail(grey))
    return np.array(rows)


def lost(grey: Image.Image, factor: float) -> np.ndarray:
    """Return `Details.detail` as an array [1]. The rim does not count, because a border may begin there."""
    rim = min(grey.size) // RIM
    grey = grey.crop((rim, rim, grey.width - rim, grey.height - rim))
    size = max(1, round(grey.width / factor)), max(1, round(grey.height / factor))
    reduced = grey.resize(size, Image.Resampling.LANCZOS).resize(grey.size, Image.Resampling.BICUBIC)
    difference = np.asarray(grey, np.float32) - np.asarray(reduced, np.float32)
    return np.sqrt(np.mean(difference**2, keepdims=True).ravel())


def common_parts(facts: Mapping[int, Facts]) -> dict[int, int]:
    """Find the part of each image that matches the others. Text and noise may cross the border of an image on a plain
    background, so whole images are compared then."""
    shown = unit_thumbnails(facts)
    best_score, best_parts = 0.0, np.full(len(facts), INSIDE)
    for part in (INSIDE, WHOLE):
        for middle in shown[:MOST_MIDDLES, part]:
            alike = shown @ middle
            parts = np.where(alike[:, WHOLE] > alike[:, INSIDE] + MORE_ALIKE, WHOLE, INSIDE)
            score = float(np.take_along_axis(alike, parts[:, None], 1).mean())
            if score > best_score + MORE_ALIKE:
                best_score, best_parts = score, parts
    return {number: int(part) for number, part in zip(facts, best_parts, strict=True)}


def unit_thumbnails(facts: Mapping[int, Facts]) -> np.ndarray:
    """Return thumbnails [N 2 1024], of which products are correlations."""
    shown = np.stack([each.thumbnails for each in facts.values()])
    shown = shown - shown.mean(2, keepdims=True)
    return shown / np.maximum(np.linalg.norm(shown, axis=2, keepdims=True), 1e-6)


def common_sides(facts: Mapping[int, Facts], parts: Mapping[int, int]) -> dict[int, float]:
    """Measure the sides of parts. A drawing on white may be on a larger white canvas, which no part of the others
    matches. Its side then follows from what both have within their borders."""
    shown, numbers = unit_thumbnails(facts), list(facts)
    chosen = np.stack([shown[place, parts[number]] for place, number in enumerate(numbers)])
    alike = chosen @ chosen.T
    matching = np.flatnonzero(alike[alike.sum(0).argmax()] >= SAME_CONTENT)
    sides = {number: each.side(parts[number]) for number, each in facts.items()}
    for place, number in enumerate(numbers):
        same = shown[matching, INSIDE] @ shown[place, INSIDE]
        if place in matching or same.max() < SAME_INSIDE:
            continue
        each, other = facts[number], facts[numbers[matching[same.argmax()]]]
        (width, height), (its_width, its_height) = each.sizes[INSIDE], other.sizes[INSIDE]
        shape = width * its_height / (height * its_width)
        if max(shape, 1 / shape) <= SAME_SHAPE:
            sides[number] = sides[numbers[matching[same.argmax()]]] * each.side(INSIDE) / other.side(INSIDE)
    return sides
