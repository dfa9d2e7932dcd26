"""The options of training inpainting checkpoints; no torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InpaintConfig:
    """Which parts of the images are hidden while an inpainting checkpoint is trained."""

    num_masks: int = 4
    """Random masks of rectangles and strokes per crop and mirroring of an image; fixed, so they can be cached."""
    whole_share: float = 0.25
    """Share of samples of which everything is hidden, which the model then draws from the prompt alone."""

    def problems(self) -> list[str]:
        found = []
        if self.num_masks < 1:
            found.append(f"inpaint.num_masks: got {self.num_masks}, expected 1 or more.")
        if not 0 <= self.whole_share <= 1:
            found.append(f"inpaint.whole_share: got {self.whole_share}, expected a share from 0 to 1.")
        return found
