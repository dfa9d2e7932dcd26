"""The options of training inpainting checkpoints; no torch here."""

from dataclasses import dataclass

from finetune.config.facts import Count, Share


@dataclass(frozen=True)
class InpaintConfig:
    """Parts of images that are hidden in training of inpainting checkpoints."""

    num_masks: Count = 4
    """Random masks of rectangles and strokes per crop and mirroring of an image; fixed, so they can be cached."""
    whole_share: Share = 0.25
    """Share of samples that are hidden completely, so the model draws them from the prompt alone."""
