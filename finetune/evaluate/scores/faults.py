"""Faults: images that are flat, black, noise, saturated or not numbers. Axes as in evidence.py."""

import numpy as np

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score

BLACK, FLAT = 4.0, 2.0
"""Brightest pixel of a black image, and largest deviation of a flat one, in levels of 255."""
SATURATED = 0.25
"""Share of pixels of full saturation and more than any training image has, that makes an image saturated."""
NOISE = 2.0
"""How many times as rough as the roughest training image an image of noise is."""


def faults(evidence: Evidence) -> Score:
    """Score the share of faulty images, and count them by fault."""
    meaning = "Share of images that are flat, black, oversaturated, noise or not numbers. Lower is better; 0 is usual."
    about = About(meaning, "lower", "pixels")
    found = {name: table & ~evidence.not_finite for name, table in pixel_faults(evidence).items()}
    found = {"not_numbers": evidence.not_finite, **found}
    cells = np.any(list(found.values()), axis=0).astype(float)
    counts = {name: int(table.sum()) for name, table in found.items() if table.any()}
    return about.mean(cells, list(range(len(cells))), **counts)


def pixel_faults(evidence: Evidence) -> dict[str, np.ndarray]:
    """Find each fault [P S] in the pixels. An image has at most one."""
    samples, training = (images.astype(np.float32) for images in (evidence.samples, evidence.training))
    black = samples.max((2, 3, 4)) <= BLACK
    flat = (samples.std((2, 3)).max(2) <= FLAT) & ~black
    flat &= training.std((1, 2)).max() > FLAT
    usual = saturated_share(training).max()
    saturated = saturated_share(samples) > min(1 - 1e-6, usual + SATURATED)
    noise = roughness(samples) > NOISE * roughness(training).max() + 1e-3
    taken = black | flat
    return {"black": black, "flat": flat, "noise": noise & ~taken, "saturated": saturated & ~taken & ~noise}


def saturated_share(images: np.ndarray) -> np.ndarray:
    """Compute the share of pixels of images [... h w 3] that are all of one colour and none of another."""
    return ((images.max(-1) >= 250) & (images.min(-1) <= 5)).mean((-2, -1))


def roughness(images: np.ndarray) -> np.ndarray:
    """Estimate the noise of images [... h w 3] in levels, from the second differences of both axes.

    It is 0 for any slope (Fast Noise Variance Estimation, Immerkaer 1996); the median leaves out the edges of drawings.
    """
    grey = images.mean(-1)
    found = grey[..., 2:, :] - 2 * grey[..., 1:-1, :] + grey[..., :-2, :]
    found = found[..., :, 2:] - 2 * found[..., :, 1:-1] + found[..., :, :-2]
    return np.median(np.abs(found), axis=(-2, -1)) / 0.6745 / 6
