"""How coarsely an image was compressed before it was saved as it is, as its pixels show.

JPEG rounds each frequency of its 8 x 8 blocks to multiples of a step. These steps outlast a second file of better
quality, as long as the blocks stay where they were: the levels of a frequency then crowd around multiples.
"""

import numpy as np
from PIL import Image

BLOCK = 8
MIDDLE = 512
"""Pixels a side that are looked at."""
FREQUENCIES = np.array([(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)])
"""Down and across, the coarsest but the mean."""
STANDARD_STEPS = np.array([11, 12, 12, 10, 14, 14, 13])
"""Of these frequencies in the usual table of luminance, at quality 50."""
STEPS = np.arange(6, 160)
"""From quality 75 or so downwards; finer steps drown in the rounding of the second file."""
MOST_LEVELS = 640
SPREAD = 3
"""Levels up to which a frequency that was rounded to nothing strays in the second file."""
CROWDED, TIED = 0.55, 0.01
"""Mean cosine of levels around multiples of a step, 1 where all are multiples, 0 where they are spread evenly; by how
much a divisor of the step may seem better."""
FEWEST_LEVELS, FEWEST_FREQUENCIES = 40, 3
"""Levels beyond half a step that tell it, and frequencies that have a step."""
ALIKE = 0.3
"""By which part these steps may differ from those of the usual table; other tables are much like it."""


def quality_of(grey: Image.Image) -> float:
    """Return the JPEG quality, 1 to 100, that a grey image once had.

    It is 100 where none shows.
    """
    levels = np.abs(frequencies_of(grey))
    found = np.array([step_of(each) for each in levels.T]) if len(levels) else np.zeros(len(FREQUENCIES))
    ratios = (found / STANDARD_STEPS)[found > 0]
    ratio = float(np.median(ratios)) if len(ratios) else 1.0
    if (np.abs(ratios / ratio - 1) < ALIKE).sum() < FEWEST_FREQUENCIES:  # edges of drawings may also be of few levels
        return 100.0
    scale = 100 * ratio
    return max(1.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale)


def frequencies_of(grey: Image.Image) -> np.ndarray:
    """Return the levels of FREQUENCIES in the blocks of an image's middle [N F]."""
    left, top = (max(0, (side - MIDDLE) // 2 // BLOCK * BLOCK) for side in grey.size)
    right, bottom = (
        start + min(MIDDLE, side - start) // BLOCK * BLOCK for start, side in zip((left, top), grey.size, strict=True)
    )
    pixels = np.asarray(grey.crop((left, top, right, bottom)), np.float32)
    down, across = (side // BLOCK for side in pixels.shape)
    blocks = pixels.reshape(down, BLOCK, across, BLOCK).swapaxes(1, 2).reshape(down * across, BLOCK * BLOCK)
    waves = np.cos(np.pi * np.arange(BLOCK)[:, None] * (np.arange(BLOCK) + 0.5) / BLOCK) / 2
    waves[0] /= np.sqrt(2)
    basis = np.stack([np.outer(waves[down], waves[across]).ravel() for down, across in FREQUENCIES], 1)
    return blocks @ basis.astype(np.float32)


def step_of(levels: np.ndarray) -> int:
    """Return the step of which the positive levels [N] are multiples; 0 for none."""
    counts = np.bincount(np.minimum(levels.round().astype(int), MOST_LEVELS), minlength=MOST_LEVELS + 1)[:MOST_LEVELS]
    counts[: SPREAD + 1] = 0
    steps, values = STEPS[:, None], np.arange(MOST_LEVELS)
    is_beyond = values > steps / 2
    nearness = np.where(is_beyond, np.cos(2 * np.pi * values / steps), -1)  # else multiples of the step fit as well
    crowding = nearness @ counts / max(1, counts.sum())
    fits = (is_beyond @ counts >= FEWEST_LEVELS) & (crowding >= CROWDED)
    return int(STEPS[fits & (crowding >= crowding[fits].max(initial=0) - TIED)][-1]) if fits.any() else 0
