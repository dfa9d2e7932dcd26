"""Information that images of a group share, which tells their original.

Edits share with each other only what both share with their original, so that tells most about any third image. All
are moved onto one of them; the information (Shannon) that two share is then summed over tiles and scales, where it
follows from their correlation. Axes: N images, H W height and width, T tiles. Needs OpenCV.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.similarity.agreement import overlaid_correlations
from finetune.similarity.appearance import ComparedImage, motions

MARGIN = 0.25
"""Share of a side by which others may reach beyond the image that all are moved onto."""
FOUND, GOOD = 0.5, 0.9
"""Agreement of parts from which an image counts as moved onto another, and from which no other motion is tried."""
STEPS, PRECISION, SMOOTHED, STRAYED = 30, 1e-4, 3, 40
"""Of the search for the exact motion: steps, the gain at which it ends, the width of the filter, and by how many pixels
a corner may move."""
SCALES = 1.0, 3.0
"""Deviations of the Gaussians between which detail is told apart, in pixels at the side of `ComparedImage`."""
VIEWS = 3
"""Images onto each of which all are moved; the median of the results counts."""
TILE, FLOOR, MOST_ALIKE = 16, 0.01, 0.9999
"""Pixels along a side of a tile, squared levels that are noise, and the squared correlation of equal tiles."""
NUMBER = np.diag([0.5, 0.5, 1])
PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
"""From numbers of pixels, of which the first is 0, to places, where its middle is 0.5."""


@dataclass(frozen=True)
class Consensus:
    """Information that images share, by their numbers."""

    numbers: Sequence[int]
    shared: np.ndarray
    """[VIEWS N N] Information that two share, 0 for an image itself; NaN for images that could not be moved."""

    def share(self, one: int, other: int) -> float:
        """Compare what two tell about third images; 1 where unknown."""
        if one not in self.numbers or other not in self.numbers:
            return 1.0
        rows = [self.numbers.index(one), self.numbers.index(other)]
        told = np.nan_to_num(np.delete(self.shared[:, rows], rows, axis=2)).sum(2)
        return float(np.median([mine / others if min(mine, others) > 0 else 1.0 for mine, others in told]))


def shared_information(images: Sequence[ComparedImage]) -> np.ndarray:
    """Measure the information that two images share [VIEWS N N], as of `Consensus`. One image that all are moved onto
    may be turned or show little of the others, so those that share most come after the first."""
    views = [shared_where(images, 0)]
    told = np.nan_to_num(views[0]).sum(1)
    told[0] = np.inf
    views += [shared_where(images, int(middle)) for middle in np.argsort(-told, kind="stable")[1:VIEWS]]
    return np.stack(views)


def shared_where(images: Sequence[ComparedImage], middle: int) -> np.ndarray:
    """Measure what images share [N N] where all are moved onto one of them."""
    onto = images[middle]
    motions_to = [np.eye(3) if image is onto else motion_to(onto, image) for image in images]
    found = {place: motion for place, motion in enumerate(motions_to) if motion is not None}
    levels, covered = zip(*(drawn(images[place], motion, onto) for place, motion in found.items()), strict=True)
    shared = np.full((len(images), len(images)), np.nan)
    shared[np.ix_(list(found), list(found))] = information(np.stack(levels), np.stack(covered))
    return shared


def motion_to(first: ComparedImage, second: ComparedImage) -> np.ndarray | None:
    """Find the projection [3 3] of the first image's places to the second's."""
    best, score = None, FOUND
    for motion in motions(first, second):
        whole, parts = overlaid_correlations(first, second, motion)
        agreement = min((2 + whole) / 3, parts)
        if agreement > score:
            best, score = motion, agreement
        if score >= GOOD:
            break
    return None if best is None else refined(first, second, np.vstack([best, [0, 0, 1]]))


def refined(first: ComparedImage, second: ComparedImage, motion: np.ndarray) -> np.ndarray:
    """Refine a projection [3 3] by correlation (Evangelidis, TPAMI 2008)."""
    import cv2

    one, other = (np.asarray(each.half, np.float32) for each in (first, second))
    start = np.linalg.inv(PIXEL) @ NUMBER @ motion @ np.linalg.inv(NUMBER) @ PIXEL
    ends = cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, PRECISION
    try:
        near, everywhere = (start / start[2, 2]).astype(np.float32), np.ones(other.shape, np.uint8)
        _, exact = cv2.findTransformECC(one, other, near, cv2.MOTION_HOMOGRAPHY, ends, everywhere, SMOOTHED)
    except cv2.error:  # it does not converge
        return motion
    exact = np.linalg.inv(NUMBER) @ PIXEL @ exact @ np.linalg.inv(PIXEL) @ NUMBER
    width, height = first.image.size
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    before, after = (each @ corners for each in (motion, exact))
    strayed = np.abs(before[:2] / before[2] - after[:2] / after[2]).max()
    return exact if strayed <= STRAYED else motion  # NaN too


def drawn(image: ComparedImage, motion: np.ndarray, middle: ComparedImage) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image [H W] in place of another, with its mask."""
    import cv2

    width, height = middle.image.size
    left, top = round(MARGIN * width), round(MARGIN * height)
    onto = np.linalg.inv(PIXEL) @ motion @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ PIXEL
    levels = np.asarray(image.grey, np.float32)
    size, whole = (width + 2 * left, height + 2 * top), np.ones_like(levels)
    inverse = cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(levels, onto, size, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REPLICATE)
    return moved, cv2.warpPerspective(whole, onto, size, flags=cv2.INTER_LINEAR | inverse) > 0.99


def information(levels: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Sum the information [N N] that images [N H W] share."""
    import cv2

    both = tiles(covered).all(-1).astype(np.float32)  # [T N]
    blurred = [levels, *(np.stack([cv2.GaussianBlur(each, (0, 0), scale) for each in levels]) for scale in SCALES)]
    bands = [fine - coarse for fine, coarse in itertools.pairwise(blurred)] + [blurred[-1]]
    shared = np.zeros((len(levels), len(levels)))
    for band in bands:
        cut = tiles(band)
        cut -= cut.mean(-1, keepdims=True)
        products = cut @ cut.swapaxes(1, 2) / TILE**2  # [T N N]
        power = np.add((cut**2).mean(-1), FLOOR)  # [T N]
        alike = products**2 / np.einsum("ti,tj->tij", power, power)
        alike = np.minimum(alike, MOST_ALIKE) * np.einsum("ti,tj->tij", both, both)
        shared += -0.5 * np.log1p(-alike).sum(0)
    np.fill_diagonal(shared, 0)
    return shared


def tiles(levels: np.ndarray) -> np.ndarray:
    """Cut images [N H W] into whole tiles [T N TILE * TILE]."""
    num, rows, columns = len(levels), levels.shape[1] // TILE, levels.shape[2] // TILE
    cut = levels[:, : rows * TILE, : columns * TILE].reshape(num, rows, TILE, columns, TILE)
    return cut.transpose(1, 3, 0, 2, 4).reshape(rows * columns, num, TILE * TILE)
