"""Maximum mean discrepancy of two sets of images, estimated without bias.

Axes: M images of one set, N of the other.
"""

from collections.abc import Callable

import numpy as np

from finetune.evaluate.evidence import Embedded
from finetune.evaluate.grid import STYLED, Grid
from finetune.evaluate.intervals import weighted_interval
from finetune.evaluate.results import About, Score

FEWEST = 50
"""Images of each set; with fewer the estimate's spread is as large as the differences that matter."""
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def discrepancy_score(about: About, grid: Grid, given: Embedded, kernel: Kernel) -> Score:
    """Score the discrepancy of drawn images and training images."""
    prompts = grid.of_kinds(*STYLED)
    compared, num_seeds = given.compared(), len(grid.seeds)
    if min(len(prompts) * num_seeds, len(compared.training)) < FEWEST:
        return about.absent(
            f"the sets are too small: {len(prompts) * num_seeds} images drawn and {len(compared.training)} of the "
            f"training set, expected {FEWEST} of each"
        )
    samples = compared.samples[prompts].reshape(-1, compared.samples.shape[-1])
    within, across = kernel(samples, samples), kernel(samples, compared.training)
    of_training = off_diagonal_mean(kernel(compared.training, compared.training), np.ones(len(compared.training)))

    def statistic(weights: np.ndarray) -> float:
        flat = weights.ravel()
        cross = float(flat @ across.mean(1) / flat.sum())
        return off_diagonal_mean(within, flat) + of_training - 2 * cross

    return about.measured(weighted_interval(statistic, len(prompts), num_seeds), len(samples))


def off_diagonal_mean(kernel: np.ndarray, weights: np.ndarray) -> float:
    """Average a kernel [M M] over pairs of different images, by their weights [M]."""
    pairs = weights @ kernel @ weights - float(np.square(weights) @ np.diagonal(kernel))
    return float(pairs / (weights.sum() ** 2 - np.square(weights).sum()))


def polynomial(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute (x . y + 1)^3, the kernel of KID for vectors of length 1 (arXiv 1801.01401, section 4)."""
    return (first @ second.T + 1) ** 3


def gaussian(first: np.ndarray, second: np.ndarray, width: float = 10.0) -> np.ndarray:
    """Compute the kernel of CMMD (arXiv 2401.09603, section 4). It is exp(-|x - y|^2 / (2 width^2))."""
    squared = np.square(first).sum(1)[:, None] + np.square(second).sum(1)[None] - 2 * first @ second.T
    return np.exp(-np.maximum(squared, 0) / (2 * width**2))
