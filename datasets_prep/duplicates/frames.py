"""Frames around images, such as screenshots, found by comparing images.

The surroundings are a frame where the strips outside all edges are flat and most pixels change at the edges; a
photograph that was cropped continues beyond the edges of the crop. Where the image has the tone of the page no edge
shows; the place of most images of a group then tells what belongs to it. Axes: H W height and width. Needs OpenCV.
"""

import numpy as np
from PIL import Image

from finetune.similarity.appearance import ComparedImage, look_at, motions_by_corners
from finetune.similarity.codes import KINDS
from finetune.similarity.designs import FLAT_TILE, TILE, deviations, tiles

Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""
FLAT_RIM = 0.6
"""Share of flat tiles along a side that an image in a frame has at least."""
TURNED, STRETCHED = 0.03, 1.25
"""Shares of a side by which an image in a frame may be turned, and how much more it may be scaled along one side."""
MARGIN, SMALLEST = 0.02, 0.05
"""Share of a side up to which nothing surrounds it, and the smallest share of a side that is in a frame."""
SEARCHED, STRIP, GAP = 0.02, 0.01, 2
"""Shares of a side within which an edge is looked for and of the strip beside it, and pixels between these."""
STRONG = 0.2
"""Share of the largest step near an edge from which the outermost step is the edge; images may have edges of their own
near it."""
SAME_TONE, FLAT_STRIP, CHANGED = 12, 0.8, 0.3
"""Levels, the share of a strip within so many of its median, and the share of the pixels at the edges that leave it."""
SAME_CONTENT = 0.9
"""Correlation of thumbnails from which images show the same; crops show something else."""
THUMBNAIL = 32
"""Side of a thumbnail in pixels."""


def may_be_framed(grey: Image.Image) -> bool:
    """Check whether an image is flat along a side."""
    small = grey.copy()
    small.thumbnail((384, 384), Image.Resampling.BOX)
    if min(small.size) < 2 * TILE:
        return False
    flat = deviations(tiles(small, TILE)) < FLAT_TILE
    return max(side.mean() for side in (flat[0], flat[-1], flat[:, 0], flat[:, -1])) >= FLAT_RIM


def frame_of(outer: Image.Image, inner: Image.Image) -> tuple[Box, bool] | None:
    """Locate another image framed in an RGB image. The result tells if its edges show there, too. They do not on a page
    of the image's own tone, so what is around it may as well belong to the outer image."""
    place = place_of(outer, inner)
    if place is None:
        return None
    pixels = np.asarray(outer.convert("L"), np.int16)
    left, right, across = edges(pixels, place[0::2], place[1::2])
    top, bottom, down = edges(pixels.T, place[1::2], place[0::2])
    found = across + down
    if not found or min(found)[0] < FLAT_STRIP:
        return None
    is_clear = bool(np.mean([changed for _, changed in found]) >= CHANGED)
    box = (left, top, right, bottom) if is_clear else place
    one, other = (thumbnail(each) for each in (outer.crop(box), inner))
    return (box, is_clear) if show_the_same(one, other) else None


def place_of(outer: Image.Image, inner: Image.Image) -> Box | None:
    """Locate the whole of another image upright, by their corners."""
    nothing = np.zeros((len(KINDS), 4), np.uint64)
    looks: list[ComparedImage] = [look_at(each, nothing) for each in (outer, inner)]
    motion = next(motions_by_corners(*looks), None)
    if motion is None or min(motion[0, 0], motion[1, 1]) <= 0:
        return None
    scales = motion[0, 0], motion[1, 1]
    if max(abs(motion[0, 1]), abs(motion[1, 0])) > TURNED * min(scales) or max(scales) > STRETCHED * min(scales):
        return None
    back = np.linalg.inv(np.vstack([motion, [0, 0, 1]]))[:2]
    width, height = looks[1].image.size
    first, last = back @ [0, 0, 1], back @ [width, height, 1]
    zoom = np.array(outer.size) / looks[0].image.size
    place = np.concatenate([first * zoom, last * zoom])
    sides, shown = np.array(outer.size), place[2:] - place[:2]
    if (place[:2] < -MARGIN * sides).any() or (place[2:] > (1 + MARGIN) * sides).any():
        return None
    if (shown < SMALLEST * sides).any() or (shown < 2 * TILE).any():
        return None
    left, top, right, bottom = (int(each) for each in np.clip(place.round(), 0, [*sides, *sides]))
    return left, top, right, bottom


def edges(
    pixels: np.ndarray, between: tuple[int, ...], along: tuple[int, ...]
) -> tuple[int, int, list[tuple[float, float]]]:
    """Find the columns [H W] between which an image is. For each edge with more beyond it, return how flat the outside
    is and how much changes there. Columns are searched near `between`, in the rows `along`."""
    width, found, judged = pixels.shape[1], [], []
    rows = pixels[along[0] : along[1]]
    for place, is_first in zip(between, (True, False), strict=True):
        margin = place if is_first else width - place
        if margin <= MARGIN * width:
            found.append(0 if is_first else width)
            continue
        reach = max(3, round(SEARCHED * (between[1] - between[0])))
        start = max(1, place - reach)
        steps = np.abs(np.diff(rows[:, start - 1 : min(width - 1, place + reach) + 1], axis=1)).mean(0)
        edge = start + int(np.flatnonzero(steps >= STRONG * steps.max())[0 if is_first else -1])
        strip = max(2, round(STRIP * width))
        beyond = rows[:, max(0, edge - GAP - strip) : edge - GAP] if is_first else rows[:, edge + GAP :][:, :strip]
        inside = rows[:, edge + GAP] if is_first else rows[:, edge - GAP - 1]
        if not beyond.size:
            return 0, width, [(0.0, 0.0)]
        tone = np.median(beyond)
        judged.append((float((abs(beyond - tone) <= SAME_TONE).mean()), float((abs(inside - tone) > SAME_TONE).mean())))
        found.append(edge)
    return found[0], found[1], judged


def show_the_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Compare thumbnails. Even ones show nothing."""
    return min(first.std(), second.std()) >= 1 and np.corrcoef(first, second)[0, 1] >= SAME_CONTENT


def thumbnail(image: Image.Image) -> np.ndarray:
    """Grey levels of an image, reduced, in one row."""
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32).ravel()
