"""The result of a score: a value, its interval, and its meaning. Torch-free."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from finetune.evaluate.intervals import Interval, mean_interval

Better = Literal["higher", "lower"]
DIGITS = 6
"""Digits after the point that are written: float32 has no more, and more would differ between machines."""


@dataclass(frozen=True)
class Score:
    """One score of a checkpoint. Without a value, `reason` says why there is none."""

    meaning: str
    """One sentence, with the direction that is better."""
    better: Better
    features: str
    """What images were compared by."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_images: int = 0
    reason: str | None = None
    prompts: tuple[int, ...] = ()
    """Numbers of the grid's prompts, one per row of `cells`."""
    cells: tuple[tuple[float, ...], ...] = ()
    """The score of each image by prompt and seed, for paired comparisons; none where it is not a mean of images."""
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further figures, such as the base model's."""

    def row(self) -> dict[str, Any]:
        """Give the score the form of scores.jsonl."""
        return {key: rounded(value) for key, value in asdict(self).items() if value not in (None, (), {})}


def rounded(value: Any) -> Any:
    """Round all numbers within a value, as they are written."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0  # no negative zero
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return value


@dataclass(frozen=True)
class About:
    """The part that is the same for all results of one score."""

    meaning: str
    better: Better
    features: str

    def absent(self, reason: str) -> Score:
        """Make the result of a score that cannot be computed."""
        return Score(self.meaning, self.better, self.features, reason=reason)

    def mean(self, cells: np.ndarray, prompts: list[int], **detail: Any) -> Score:
        """Make the result of a mean over images, with cells [P S]."""
        table = tuple(tuple(float(cell) for cell in row) for row in cells)
        return self.measured(mean_interval(cells), cells.size, tuple(prompts), table, **detail)

    def measured(
        self,
        interval: Interval,
        num_images: int,
        prompts: tuple[int, ...] = (),
        cells: tuple[tuple[float, ...], ...] = (),
        **detail: Any,
    ) -> Score:
        """Make the result of a score with its interval."""
        return Score(
            *(self.meaning, self.better, self.features, interval.value, interval.low, interval.high, num_images, None),
            *(prompts, cells, detail),
        )
