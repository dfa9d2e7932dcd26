"""The options of training inpainting checkpoints; no torch here."""

from dataclasses import dataclass

from finetune.config.facts import Count, Share


@dataclass(frozen=True)
class InpaintConfig:
    """Which parts of the images are hidden while an inpainting checkpoint is trained."""

    num_masks: Count = 4
    """Random masks of rectangles and strokes per crop and mirroring of an image; fixed, so they can be cached."""
    whole_share: Share = 0.25
    """Share of samples of which everything is hidden, which the model then draws from the prompt alone."""
