"""The options of the loss's mask; no torch here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.facts import ActsWith, Mark, NotNegative, between


@dataclass(frozen=True)
class MaskConfig:
    """Parts of images that are trained on."""

    kind: Literal["none", "alpha", "file"] = "none"
    """alpha takes each image's own alpha channel, file a mask image: NAME-masklabel.png (or another format) beside
    NAME.jpg, or the file of the same name in mask.folder. White, and opaque, is trained on."""
    folder: Annotated[Path | None, ActsWith("kind", "file"), Mark.READ] = None
    """Folder of the masks, with the subfolders of data.folder; a mask is named like its image, but for the suffix."""
    outside_weight: Annotated[float, between(0, 1, "a number from 0 to 1")] = 0.1
    """Loss weight outside the mask, 0 to 1; inside it is 1."""
    prior_weight: NotNegative = 0.0
    """Weight, outside the mask, of the error to what the base model predicts; adapters only."""

    def problems(self) -> Iterator[str]:
        if self.kind == "none" and (self.outside_weight, self.prior_weight) != (0.1, 0.0):
            yield (
                "mask.kind: got none, so mask.outside_weight and mask.prior_weight do nothing. Set it, or omit them."
            )
        if self.kind != "none" and self.outside_weight == 1 and self.prior_weight == 0:
            yield "mask.outside_weight: got 1, with which a mask does nothing. Lower it or remove mask.kind."


NO_MASKS = MaskConfig()
