"""Fit one image's tones and colours to another's. Axes: N places, H W, C channels. Torch-free."""

import numpy as np
from PIL import Image

GAINS, LARGEST_OFFSET = (0.75, 1.35), 40.0
"""By which contrast and brightness of simple images may differ."""
COARSE = 48
"""Pixels of the longer side at which tones and colours are compared."""


def coarse(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image at COARSE pixels a side."""
    scale = COARSE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float64)


def fitted(first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray]:
    """Return gain and offsets that bring `first` closest to `second` [N C]."""
    mean, other = first.mean(0), second.mean(0)
    spread = ((first - mean) ** 2).mean()
    gain = float(((first - mean) * (second - other)).mean() / spread) if spread > 1e-3 else 1.0
    return gain, other - gain * mean


def brightened(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fit tones [N] of `first` to `second` within GAINS, clipped."""
    best, smallest = first, np.inf
    for gain in np.arange(GAINS[0], GAINS[1] + 0.01, 0.05):
        free = (second > 2) & (second < 253)
        offset = (second - gain * first)[free].mean() if free.any() else 0.0
        expected = np.clip(gain * first + np.clip(offset, -LARGEST_OFFSET, LARGEST_OFFSET), 0, 255)
        error = float(((second - expected) ** 2).mean())
        if error < smallest:
            best, smallest = expected, error
    return best


def curve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a tone of `second` for each of `first` [N]. It is the mean where that is about as bright."""
    steps = np.clip(first, 0, 255) / 16
    weights = np.maximum(1 - np.abs(steps[:, None] - np.arange(17)), 0)
    means = weights.T @ second / np.maximum(weights.sum(0), 1e-6)
    return weights @ means


def largest_part(left: np.ndarray, num_parts: int) -> float:
    """Return the largest absolute mean of a part of [H W C]. NaN does not count."""
    known = ~np.isnan(left[..., :1])
    sums = [np.where(known, left, 0.0), known.astype(np.float64), np.ones_like(left[..., :1])]
    for axis in (0, 1):
        starts = np.arange(num_parts) * left.shape[axis] // num_parts
        starts = np.unique(starts)
        sums = [np.add.reduceat(each, starts, axis=axis) for each in sums]
    total, num, size = sums
    counts = num[..., 0] * 2 >= size[..., 0]
    means = np.linalg.norm(total / np.maximum(num, 1), axis=-1)
    return float(means[counts].max(initial=0.0))
