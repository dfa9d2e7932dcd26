"""Likeness to the training set, from that of the base model on. Axes as in evidence.py."""

from dataclasses import dataclass

import numpy as np

from finetune.evaluate.evidence import Embedded
from finetune.evaluate.grid import STYLED, Grid
from finetune.evaluate.results import About, Score

FEWEST_HELD_OUT = 8
"""Held-out images from which they are the upper end of the scale; of fewer, the training images are."""
LEAST_ROOM = 0.05
"""Least distance of both ends, as a difference of cosines."""


@dataclass(frozen=True)
class Scale:
    """Both ends: the base model's likeness, and that of the set's images."""

    zero: float
    one: float

    def apply(self, likeness: np.ndarray) -> np.ndarray:
        """Map cosines to the scale."""
        return (likeness - self.zero) / (self.one - self.zero)


def likeness_score(about: About, grid: Grid, given: Embedded) -> Score:
    """Score the mean cosine with the training images. 0 is the base model, 1 the set itself."""
    prompts = grid.of_kinds(*STYLED)
    compared = given.compared()
    scale = scale_of(compared, prompts)
    if scale.one - scale.zero < LEAST_ROOM:
        return about.absent(
            f"by {given.name} the base model's images ({scale.zero:.3f}) are as near to the training set as its own "
            f"images are to each other ({scale.one:.3f}), so nothing can be said of likeness to it"
        )
    cells = scale.apply(compared.samples[prompts] @ compared.training.mean(0))
    return about.mean(cells, prompts, cosine_of_base=scale.zero, cosine_of_set=scale.one)


def scale_of(compared: Embedded, prompts: list[int]) -> Scale:
    """Measure both ends of the scale."""
    mean, num = compared.training.mean(0), len(compared.training)
    zero = float((compared.base[prompts] @ mean).mean())
    if len(compared.held_out) >= FEWEST_HELD_OUT:
        return Scale(zero, float((compared.held_out @ mean).mean()))
    to_others = (compared.training @ mean * num - 1) / max(1, num - 1)  # without the image itself
    return Scale(zero, float(to_others.mean()))
