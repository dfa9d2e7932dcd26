"""Which of two images was made of the other.

Filters, noise, text and vignettes leave traces: both images are cut into tiles whose frequencies are compared ring by
ring. Axes: H W height and width, R rings from low to high frequencies.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets_prep.duplicates.made import Made

SIDE, TILE, NUM_RINGS = 768, 64, 16
GRID = 48
"""Width and height in pixels at which brightness is compared."""
VIGNETTE, FITS = 0.15, 0.85
"""Logarithm of the brightness lost towards the corners, and the share of the difference that this explains."""
BLURRED, SHARPENED, ADDED = -0.35, 0.1, 0.25
"""Logarithms of the gain at middle frequencies beyond which an image was blurred, sharpened, or got something added."""
FLAT_GAIN = 0.05
"""Logarithm of the gain at middle frequencies up to which only noise was added."""
SAME_PLACE = 0.5
"""Share of coarse frequencies that images have in common where one is a filtered version of the other; a mirrored or
turned one has up to 0.2."""
GONE = -1.5
"""Logarithm of the gain at middle frequencies below which an image shows nothing of another. Photographs turned by two
degrees, cut or shifted have less; smooth ones under large letters have down to -1.25."""
LEAST_ADDED, MUCH_ADDED = 2.0, 4.0
"""Levels, root mean square, of what is added; much may show at the finest frequencies alone."""


@dataclass(frozen=True)
class Gains:
    """How the frequencies of one image follow from those of another."""

    gain: np.ndarray  # [R] of the first, to come closest to the second, 1 where both are coarse
    coherence: float
    """Share of the finest frequencies that both have, 0 to 1."""
    coarse_coherence: float
    """The same of coarse ones."""

    @property
    def middle(self) -> float:
        """The mean logarithm of the gains at middle frequencies."""
        return float(np.log(np.maximum(self.gain[4:12], 0.01)).mean())

    @property
    def fine(self) -> float:
        """The mean gain at the finest frequencies."""
        return float(self.gain[12:].mean())


def pair_figures(first: Image.Image, second: Image.Image) -> np.ndarray:
    """Measure two grey images of the same size for `made_of`. Vignette [2], then the rings of each view [3 R]."""
    views = [[middle(image) for image in (first, second)]]
    if max(first.size) > SIDE * 4 // 3:
        scale = SIDE / max(first.size)
        size = max(TILE, round(first.width * scale)), max(TILE, round(first.height * scale))
        views.append([np.asarray(each.resize(size, Image.Resampling.BOX), np.float32) for each in (first, second)])
    return np.concatenate([vignette(first, second), *(rings(one, other).ravel() for one, other in views)])


def middle(image: Image.Image) -> np.ndarray:
    """Crop the middle of an image as grey levels [H W]."""
    left, top = max(0, (image.width - SIDE) // 2), max(0, (image.height - SIDE) // 2)
    box = left, top, min(image.width, left + SIDE), min(image.height, top + SIDE)
    return np.asarray(image.crop(box), np.float32)


def rings(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Measure both images' power and what they share [3 R], in levels squared. Zeros for images below a tile."""
    rows, columns = (side // TILE for side in first.shape)
    if not rows or not columns:
        return np.zeros((3, NUM_RINGS))
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)
    spectra = []
    for levels in (first, second):
        tiles = levels[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE).swapaxes(1, 2)
        tiles = tiles.reshape(-1, TILE, TILE)
        spectra.append(np.fft.rfft2((tiles - tiles.mean((1, 2), keepdims=True)) * window))
    one, other = spectra
    power = [(np.abs(one) ** 2).sum(0), (np.abs(other) ** 2).sum(0), (one * other.conj()).real.sum(0)]
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)) * 2
    ring = np.minimum((frequency * NUM_RINGS).astype(int), NUM_RINGS).ravel()
    scale = 2 / (rows * columns * TILE**2 * (window**2).sum())
    return scale * np.array([np.bincount(ring, each.ravel(), NUM_RINGS + 1)[:NUM_RINGS] for each in power])


def vignette(first: Image.Image, second: Image.Image) -> np.ndarray:
    """Measure how much lighter the second image is at its corners. Returned as a logarithm, with the share of the
    difference that it explains. A tone curve is removed first."""
    one, other = (
        np.asarray(each.resize((GRID, GRID), Image.Resampling.BOX), np.float64).ravel() for each in (first, second)
    )
    counts = (np.minimum(one, other) > 10) & (np.maximum(one, other) < 245)
    if counts.sum() < GRID:
        return np.zeros(2)
    one, other = np.log(one[counts] + 4), np.log(other[counts] + 4)
    down, across = np.meshgrid(np.linspace(-1, 1, GRID), np.linspace(-1, 1, GRID), indexing="ij")
    tone = (one + other) / 2 - (one + other).mean() / 2
    curve = np.stack([np.ones_like(tone), tone, tone**2], 1)
    both = np.column_stack([curve, (down**2 + across**2).ravel()[counts]])
    left = [other - one - terms @ np.linalg.lstsq(terms, other - one, rcond=None)[0] for terms in (curve, both)]
    lighter = np.linalg.lstsq(both, other - one, rcond=None)[0][3]
    return np.array([lighter, 1 - (left[1] @ left[1]) / max(left[0] @ left[0], 1e-9)])


def made_of(figures: np.ndarray, with_added: bool = True) -> Made:
    """Decide by `pair_figures` which image was made of the other. Without what was added only blur and light count."""
    lighter, explained = figures[:2]
    if abs(lighter) >= VIGNETTE and explained >= FITS:
        return Made.SECOND if lighter < 0 else Made.FIRST
    for view in figures[2:].reshape(-1, 3, NUM_RINGS):
        first, second, shared = view
        if min(first[1:3].min(), second[1:3].min()) < 1e-3:
            continue
        if is_made_of(second, first, shared, with_added):
            return Made.SECOND
        if is_made_of(first, second, shared, with_added):
            return Made.FIRST
    return Made.UNKNOWN


def is_made_of(made: np.ndarray, original: np.ndarray, shared: np.ndarray, with_added: bool) -> bool:
    """Check whether an image was blurred, sharpened, drawn over or got noise. The powers are per ring [R]."""
    there, back = gains(original, made, shared), gains(made, original, shared)
    is_duller = there.middle <= BLURRED and back.gain.max() >= 1.25 and there.coherence <= 0.6
    if is_duller and there.coarse_coherence >= SAME_PLACE:
        return True
    if not with_added or there.middle < GONE:
        return False
    if there.middle >= SHARPENED and there.fine >= 1.3 and there.coherence >= 0.7:
        return True
    if there.gain.max() >= 1.15 or back.gain.max() >= 1.6:
        return False
    added = float(np.sqrt(np.maximum(made - shared**2 / np.maximum(original, 1e-9), 0).sum()))
    is_less = back.middle <= there.middle - ADDED and added >= LEAST_ADDED
    is_rougher = back.fine <= there.fine * np.exp(-ADDED) and abs(there.middle) <= FLAT_GAIN
    return is_less or (is_rougher and added >= MUCH_ADDED)


def gains(first: np.ndarray, second: np.ndarray, shared: np.ndarray) -> Gains:
    """Estimate the gains from the first image to the second."""
    gain = shared / np.maximum(first, 1e-9) / np.sqrt(second[1] / first[1])
    coherence = shared**2 / np.maximum(first * second, 1e-9)
    return Gains(gain, float(coherence[12:].mean()), float(coherence[1:3].mean()))
