"""Colours, edges and textures of images. Nothing here is learned. Axes: N images, C channels, h w pixels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.evaluate.features.base import joined

LEVELS = 4
"""Boxes of the colour histogram along each of red, green and blue."""
DIRECTIONS = 8
SCALES = (1, 2, 4)
"""Factors by which images are made smaller before edges and textures are taken."""
PATCH = 4
"""Side of the cosine patterns whose products are the textures."""
OPPONENTS = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
"""Brightness, red against green, and yellow against blue."""


@dataclass(frozen=True)
class PixelStatistics:
    """The style of an image as statistics of its pixels."""

    name: str = "pixel statistics"

    def encode(self, images: Tensor) -> Tensor:
        """Describe images by colours, edges, and Gram matrices of textures."""
        parts = [colours(images)]
        for scale in SCALES:
            smaller = F.avg_pool2d(images, scale) if scale > 1 else images
            parts += [edges(smaller), textures(smaller)]
        return joined(parts)


def colours(images: Tensor) -> Tensor:
    """Compute mean, deviation and the root of the histogram of colours [N D]."""
    flat = images.flatten(2)
    places = (flat * LEVELS).long().clamp(0, LEVELS - 1)
    boxes = (places[:, 0] * LEVELS + places[:, 1]) * LEVELS + places[:, 2]
    histogram = F.one_hot(boxes, LEVELS**3).float().mean(1)
    return torch.cat([flat.mean(2), flat.std(2), histogram.sqrt()], dim=1)


def edges(images: Tensor) -> Tensor:
    """Compute the histogram of edges [N D] by direction, and by strength."""
    grey = images.mean(1, keepdim=True)
    across, down = grey.diff(dim=3)[:, :, :-1], grey.diff(dim=2)[:, :, :, :-1]
    strength = (across.square() + down.square()).sqrt().flatten(1)
    angle = torch.atan2(down, across).flatten(1) % math.pi  # of an edge, whichever side is the darker
    places = (angle / math.pi * DIRECTIONS).long().clamp(0, DIRECTIONS - 1)
    by_direction = torch.zeros(len(images), DIRECTIONS).scatter_add_(1, places, strength) / strength.shape[1]
    levels = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4])
    shares = (strength[:, :, None] > levels).float().mean(1)
    return torch.cat([by_direction.sqrt(), shares], dim=1)


def textures(images: Tensor) -> Tensor:
    """Compute the Gram matrices [N D] of cosine patterns. They are roots with their signs (arXiv 1505.07376)."""
    patterns = cosine_patterns(PATCH)
    opponents = torch.tensor(OPPONENTS)
    planes = torch.einsum("oc,nchw->nohw", opponents, images)
    found = F.conv2d(planes.flatten(0, 1)[:, None], patterns[:, None])
    found = found.unflatten(0, (len(images), len(OPPONENTS))).flatten(1, 2).flatten(2)  # [N F h*w]
    gram = found @ found.transpose(1, 2) / found.shape[2]
    rows, columns = torch.triu_indices(gram.shape[1], gram.shape[1])
    upper = gram[:, rows, columns]
    return upper.sign() * upper.abs().sqrt()


def cosine_patterns(side: int) -> Tensor:
    """Make the patterns [side^2 - 1, side, side] of the two-dimensional cosine transform. The flat one is omitted."""
    places = torch.arange(side)
    waves = torch.cos(math.pi / side * (places[None] + 0.5) * places[:, None].float()) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return torch.einsum("ay,bx->abyx", waves, waves).flatten(0, 1)[1:]
