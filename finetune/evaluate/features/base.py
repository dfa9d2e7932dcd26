"""The interface of a feature, and how parts of one are joined. Axes: N images, D width, h w pixels."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Feature(Protocol):
    """A description of images by vectors of length 1."""

    @property
    def name(self) -> str:
        """The name that every result states."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Describe images [N 3 h w] in [0, 1] by float32 [N D]. The result for an image depends on it alone."""
        ...


def unit_rows(vectors: Tensor) -> Tensor:
    """Scale vectors [N D] to length 1. Zeros stay zeros."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Join parts [N D] of a description to one of length 1. Every part weighs the same, whatever its width."""
    return unit_rows(torch.cat([unit_rows(part.float()) for part in parts], dim=1))


def as_levels(images: Tensor) -> np.ndarray:
    """Convert images [N 3 h w] in [0, 1] to whole numbers [N h w 3]."""
    return (images.movedim(1, -1) * 255).round().to(torch.uint8).cpu().numpy()
