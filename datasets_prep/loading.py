"""Gives pictures of a source again, small, for the stages that need to look at some of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from datasets_prep.measure import FEATURE_SIDE, colour
from datasets_prep.records import PrepSource
from finetune.data.images import open_rgb


@dataclass(frozen=True)
class Loader:
    """Opens pictures of a source; whole, or at about the size they were measured at."""

    source: PrepSource
    sources: Sequence[str]
    """Index -> name."""
    background: str

    def small(self, index: int) -> Image.Image:
        """Returns a picture, upright and RGB, its shorter side below 1,024 pixels."""
        picture = open_rgb(self._bytes(index), background=colour(self.background), draft=(FEATURE_SIDE, FEATURE_SIDE))
        factor = min(picture.size) // FEATURE_SIDE
        return picture.reduce(factor) if factor > 1 else picture

    def whole(self, index: int) -> Image.Image:
        """Returns a picture, upright and RGB, with all its pixels."""
        return open_rgb(self._bytes(index), background=colour(self.background))

    def by_name(self, name: str) -> Image.Image | None:
        """Returns a picture as `small` does, None where it cannot be read."""
        try:
            picture = open_rgb(
                self.source.read(name), background=colour(self.background), draft=(FEATURE_SIDE, FEATURE_SIDE)
            )
        except (OSError, ValueError):
            return None
        factor = min(picture.size) // FEATURE_SIDE
        return picture.reduce(factor) if factor > 1 else picture

    def _bytes(self, index: int) -> bytes:
        name = self.sources[index]
        try:
            return self.source.read(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"source: {name} could be read before and now cannot ({error}). Run again once nothing writes to it."
            ) from error
