"""Holes in images for inpainting models: rectangles, strokes, or everything. A hole is a function of the image's bytes
and a number alone, so the latents of the rest can be cached."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.batches.store import cache_key
from finetune.batches.view import View
from finetune.data.manifest import Record
from finetune.models.rows import Rows
from finetune.randomness import uniform

WHOLE = -1
"""The number of the hole that hides everything."""


@dataclass(frozen=True)
class Holes:
    """The holes of a run."""

    num_masks: int
    whole_share: float

    @property
    def numbers(self) -> list[int]:
        """All numbers that training may draw."""
        return [*range(self.num_masks if self.whole_share < 1 else 0), *([WHOLE] if self.whole_share > 0 else [])]

    def drawn(self, seed: int, position: int) -> int:
        """Draw the number of a sample's hole."""
        if uniform(seed, "whole", position) < self.whole_share:
            return WHOLE
        return int(uniform(seed, "hole", position) * self.num_masks)


@dataclass(frozen=True)
class Filling(Rows):
    """An inpainting model's further input. It is encoded, or holes to encode it with."""

    keys: tuple[str, ...]
    encoded: Tensor | None
    """[B 1+C H W], as in `Prompts`."""
    holes: Tensor | None
    """[B 1 h w], 1 where an image is hidden."""


def filling_key(record: Record, view: View, number: int, vae_fingerprint: str) -> str:
    """Make the cache key of a view with a hole. An image hidden as a whole is like any other of its size."""
    if number == WHOLE:
        return cache_key("filling", view.width, view.height, vae_fingerprint)
    return cache_key("filling", record.sha256, number, view, vae_fingerprint)


def hole(sha256: str, number: int, width: int, height: int) -> Tensor:
    """Draw a hole [1 height width]. It is 1 where an image is hidden, else 0."""
    if number == WHOLE:
        return torch.ones(1, height, width)

    def between(low: float, high: float, *place: int | str) -> float:
        return low + (high - low) * uniform(0, "hole", sha256, number, *place)

    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    if between(0, 1, "kind") < 0.5:
        for index in range(1 + int(between(0, 3, "count"))):
            x, y, wide, high = (between(0, 1, index, name) for name in ("x", "y", "wide", "high"))
            wide, high = 0.2 + 0.5 * wide, 0.2 + 0.5 * high
            left, top = x * (1 - wide) * width, y * (1 - high) * height
            draw.rectangle((left, top, left + wide * width, top + high * height), fill=255)
    else:
        for index in range(2 + int(between(0, 4, "count"))):
            num_points = 2 + int(between(0, 5, index, "points"))
            points = [(between(0, width, index, n, "x"), between(0, height, index, n, "y")) for n in range(num_points)]
            thickness = max(1, round(between(0.05, 0.2, index, "width") * min(width, height)))
            draw.line(points, fill=255, width=thickness, joint="curve")
            for x, y in points:  # round ends
                radius = thickness / 2
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return torch.as_tensor(np.array(canvas))[None].float() / 255


def latent_hole(hidden: Tensor, pixel_multiple: int) -> Tensor:
    """Scale a hole [... h w] to latents [... H W]. It takes the nearest pixel, as diffusers' pipeline does."""
    return hidden[..., ::pixel_multiple, ::pixel_multiple]
