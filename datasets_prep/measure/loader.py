"""Images of the source at small size, for later stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from datasets_prep.measure.image import FEATURE_SIDE, colour
from datasets_prep.records import PrepSource
from finetune.data.images.decode import open_rgb


@dataclass(frozen=True)
class Loader:
    """Images of a source, opened whole or at about their measured size."""

    source: PrepSource
    sources: Sequence[str]
    """Index -> name."""
    background: str

    def small(self, index: int) -> Image.Image:
        """Open an upright RGB image, shorter side below 1,024 pixels."""
        return self.at_least(index, FEATURE_SIDE)

    def at_least(self, index: int, side: int) -> Image.Image:
        """Open an upright RGB image with sides of at least `side`. Smaller ones keep their size."""
        return self._opened(self.sources[index], side)

    def whole(self, index: int) -> Image.Image:
        return self._opened(self.sources[index], None)

    def by_name(self, name: str) -> Image.Image | None:
        """Open an image as `small` does; None if unreadable."""
        try:
            return self._opened(name, FEATURE_SIDE)
        except ValueError:
            return None

    def _opened(self, name: str, side: int | None) -> Image.Image:
        draft = None if side is None else (side, side)
        try:
            image = open_rgb(self.source.read(name), background=colour(self.background), draft=draft)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"source: {name} could be read before and now cannot ({error}). Run again once nothing writes to it."
            ) from error
        factor = 1 if side is None else min(image.size) // side
        return image.reduce(factor) if factor > 1 else image
