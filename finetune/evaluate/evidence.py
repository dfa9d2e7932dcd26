"""The input of scores: vectors of images, losses and pixels. Torch-free.

Axes: P prompts, S seeds, N images, D width, K captions, h w pixels.
"""

from dataclasses import dataclass

import numpy as np

from finetune.evaluate.grid import Grid

SPREAD_FLOOR = 0.1
"""Least deviation of a dimension, in mean deviations, so that those that hardly vary do not decide."""


@dataclass(frozen=True)
class Embedded:
    """All images of an evaluation by one feature."""

    name: str
    samples: np.ndarray
    """[P S D] of the checkpoint."""
    base: np.ndarray
    """[P S D] of the base model."""
    training: np.ndarray
    """[N D]."""
    held_out: np.ndarray
    """[N D], perhaps none."""
    mirrored: np.ndarray | None = None
    """[N D] of the training images, mirrored."""

    def compared(self) -> "Embedded":
        """Centre and scale all vectors, then bring them to length 1.

        Means and deviations are those of the training images and the base model's. What is alike in
        all images then does not count. The scored checkpoint has no influence on it.
        """
        base = self._flat_base()
        means = (self.training.mean(0) + base.mean(0)) / 2
        spread = np.sqrt((np.square(self.training - means).mean(0) + np.square(base - means).mean(0)) / 2)
        scale = 1 / (spread + SPREAD_FLOOR * spread.mean() + 1e-12)

        return self._moved(means, scale)

    def compared_blindly(self) -> "Embedded":
        """Centre all vectors by the base model's alone, with length 1.

        Neither training images nor others of the set have an influence, so their distances are those of equals.
        """
        base = self._flat_base()
        return self._moved(base.mean(0), np.ones(base.shape[1]))

    def _flat_base(self) -> np.ndarray:
        return self.base.reshape(-1, self.base.shape[-1])

    def _moved(self, means: np.ndarray, scale: np.ndarray) -> "Embedded":
        def move(vectors: np.ndarray) -> np.ndarray:
            return unit_vectors((vectors - means) * scale)

        mirrored = None if self.mirrored is None else move(self.mirrored)
        parts = (self.samples, self.base, self.training, self.held_out)
        return Embedded(self.name, *map(move, parts), mirrored=mirrored)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors [... D] to length 1. Zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class PromptFit:
    """The fit of images to texts by one measure; more is better."""

    name: str
    own: np.ndarray
    """[P S], to their own prompts."""
    others: np.ndarray
    """[P S K], to other prompts of the grid."""
    captions: np.ndarray
    """[P S K], to captions of training images; NaN where the prompt asks for that."""
    judges_style: bool = False
    """True where a style new to the base model lowers the fit."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a checkpoint's images."""

    grid: Grid
    style: Embedded
    content: Embedded
    layout: Embedded
    fit: PromptFit
    base_fit: PromptFit
    samples: np.ndarray
    """[P S h w 3] of the checkpoint, whole numbers up to 255."""
    not_finite: np.ndarray
    """[P S], true where the model made values that are not numbers."""
    training: np.ndarray
    """[N h w 3]."""
    training_names: tuple[str, ...]
