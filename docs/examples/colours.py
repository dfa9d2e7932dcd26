"""A captioner: the nearest of the colours that captions.model lists, e.g. red,green,blue."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor

from datasets_prep.captioners.base import Kind, Result, check_asked, model_of
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.model_files import digest


class ColourCaptioner:
    """Names the colour of an image."""

    def __init__(self, config: CaptionsConfig) -> None:
        check_asked(config, ["short"], "Set captions.kinds to short.", follows_prompt=False)
        self.name = "colours"
        self.batch_size = config.batch_size
        self._colours = {name: np.array(ImageColor.getrgb(name)) for name in model_of(config).split(",")}

    def identity(self) -> str:
        return digest(self.name, colours=list(self._colours))

    def load(self) -> None:
        """Load nothing."""

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        return [Result(f"mostly {self._nearest(np.asarray(image).mean((0, 1)))}", 2, "stop") for image in images]

    def _nearest(self, mean: np.ndarray) -> str:
        return min(self._colours, key=lambda name: float(np.square(self._colours[name] - mean).sum()))
