"""Bootstrap intervals over prompts and seeds. Torch-free. Axes: P prompts, S seeds, R repetitions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

NUM_DRAWS = 1000
LEVEL = 0.95
"""Share of repetitions that an interval contains."""


@dataclass(frozen=True)
class Interval:
    """A value, and its bounds with other prompts and seeds."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """True where no difference shows."""
        return self.low <= 0 <= self.high


@cache
def resampled_counts(num: int, purpose: int) -> np.ndarray:
    """Count how often each of `num` is drawn, [R num]. The same arguments give the same counts everywhere."""
    random = np.random.Generator(np.random.PCG64([num, purpose]))
    counts = random.multinomial(num, np.full(num, 1 / num), size=NUM_DRAWS)
    counts.flags.writeable = False
    return counts


def mean_interval(cells: np.ndarray) -> Interval:
    """Bound the mean of cells [P S]. Prompts and seeds are drawn again, each by themselves.

    A seed is the same noise under every prompt, so both are sampled (The pigeonhole bootstrap, arXiv 0712.1111).
    """
    rows, columns = (resampled_counts(num, axis) for axis, num in enumerate(cells.shape))
    means = np.einsum("rp,ps,rs->r", rows, cells, columns, optimize=False) / cells.size
    return bounds(float(cells.mean()), means)


def prompts_interval(statistic: Callable[[np.ndarray], float], num_prompts: int) -> Interval:
    """Bound a statistic of chosen prompts, drawn again; `statistic` gets their numbers."""
    counts = resampled_counts(num_prompts, 0)
    found = [statistic(np.repeat(np.arange(num_prompts), each)) for each in counts]
    return bounds(statistic(np.arange(num_prompts)), np.array(found))


def weighted_interval(statistic: Callable[[np.ndarray], float], num_prompts: int, num_seeds: int) -> Interval:
    """Bound a statistic of weighted images; `statistic` gets their weights [P S]."""
    rows, columns = resampled_counts(num_prompts, 0), resampled_counts(num_seeds, 1)
    found = [statistic(np.outer(row, column).astype(float)) for row, column in zip(rows, columns, strict=True)]
    return bounds(statistic(np.ones((num_prompts, num_seeds))), np.array(found))


def bounds(value: float, repetitions: np.ndarray) -> Interval:
    """Take the quantiles of repetitions [R] with equal shares beyond both."""
    found = repetitions[np.isfinite(repetitions)]
    if not len(found):
        return Interval(value, value, value)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))
