"""A score: how near an image's mean colour is to that of the image in scores.palette_model, 0 to 1."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from datasets_prep.vision.model_files import digest


class PaletteScorer:
    """Compares mean colours."""

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        try:
            with Image.open(model) as image:
                self._mean = mean_colour(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"scores.{name}_model: {model} is not an image. Name one.") from error

    def identity(self) -> str:
        return digest(self.name, mean=self._mean.tolist())

    def load(self) -> None:
        """Load nothing."""

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        return [1 - float(np.abs(mean_colour(image) - self._mean).mean()) / 255 for image in images]


def mean_colour(image: Image.Image) -> np.ndarray:
    """Return the mean of each channel [3]."""
    return np.asarray(image).mean((0, 1))
