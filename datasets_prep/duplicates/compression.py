"""JPEG quality that an image once had, estimated from its pixels.

JPEG rounds each frequency of its 8 x 8 blocks to multiples of a step. These steps outlast a second file of better
quality, as long as the blocks stay where they were: the levels of a frequency then crowd around multiples.
"""

import numpy as np
from PIL import Image

BLOCK = 8
MIDDLE = 512
"""Width and height in pixels of the part that is examined."""
FREQUENCIES = np.array([(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)])
"""Down and across: the lowest ones except the mean."""
STANDARD_STEPS = np.array([11, 12, 12, 10, 14, 14, 13])
"""Their steps in the usual luminance table, at quality 50."""
STEPS = np.arange(6, 160)
"""Coarse steps, of quality 75 or less; finer ones drown in the rounding of the second file."""
MOST_LEVELS = 640
SPREAD = 3
"""Levels by which a frequency that was rounded to 0 may differ from 0 in the second file."""
CROWDED, TIED = 0.55, 0.01
"""Mean cosine of levels around multiples of a step (1: all are multiples, 0: evenly spread), and by how much a divisor
of the step may score higher.
"""
FEWEST_LEVELS, FEWEST_FREQUENCIES = 40, 3
"""Levels beyond half a step, and frequencies with a step, that an estimate needs."""
ALIKE = 0.3
"""Share by which these steps may differ from those of the usual table."""


def quality_of(grey: Image.Image) -> float:
    """Estimate the JPEG quality that a grey image once had. It is 1 to 100, and 100 where nothing shows."""
    levels = np.abs(frequencies_of(np.asarray(grey.crop(middle_box(grey.size)), np.float32), FREQUENCIES))
    found = np.array([step_of(each) for each in levels.T]) if len(levels) else np.zeros(len(FREQUENCIES))
    ratios = (found / STANDARD_STEPS)[found > 0]
    ratio = float(np.median(ratios)) if len(ratios) else 1.0
    if (np.abs(ratios / ratio - 1) < ALIKE).sum() < FEWEST_FREQUENCIES:  # edges of drawings may also be of few levels
        return 100.0
    scale = 100 * ratio
    return max(1.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale)


def middle_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of whole blocks in the middle. It is at most MIDDLE wide and high."""
    left, top = (max(0, (side - MIDDLE) // 2 // BLOCK * BLOCK) for side in size)
    right, bottom = (
        start + min(MIDDLE, side - start) // BLOCK * BLOCK for start, side in zip((left, top), size, strict=True)
    )
    return left, top, right, bottom


def frequencies_of(pixels: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return the levels [N F] of frequencies [F 2]. These are down and across, in each block of an image [H W]."""
    down, across = (side // BLOCK for side in pixels.shape)
    blocks = pixels.reshape(down, BLOCK, across, BLOCK).swapaxes(1, 2).reshape(down * across, BLOCK * BLOCK)
    waves = np.cos(np.pi * np.arange(BLOCK)[:, None] * (np.arange(BLOCK) + 0.5) / BLOCK) / 2
    waves[0] /= np.sqrt(2)
    basis = np.stack([np.outer(waves[down], waves[across]).ravel() for down, across in frequencies], 1)
    return blocks @ basis.astype(np.float32)


def step_of(levels: np.ndarray) -> int:
    """Find the step of which positive levels [N] are multiples. It is 0 where there is none."""
    counts = np.bincount(np.minimum(levels.round().astype(int), MOST_LEVELS), minlength=MOST_LEVELS + 1)[:MOST_LEVELS]
    counts[: SPREAD + 1] = 0
    steps, values = STEPS[:, None], np.arange(MOST_LEVELS)
    is_beyond = values > steps / 2
    nearness = np.where(is_beyond, np.cos(2 * np.pi * values / steps), -1)  # else multiples of the step fit as well
    crowding = nearness @ counts / max(1, counts.sum())
    fits = (is_beyond @ counts >= FEWEST_LEVELS) & (crowding >= CROWDED)
    return int(STEPS[fits & (crowding >= crowding[fits].max(initial=0) - TIED)][-1]) if fits.any() else 0
