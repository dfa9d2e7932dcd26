"""The fit of images to prompts: the base model's denoising loss.

Axes: P prompts, S seeds, K texts, C channels, H W latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.evaluate.features.model import FrozenModel
from finetune.evaluate.grid import Grid, words_of
from finetune.objectives.diffusion import denoising_loss
from finetune.randomness import noise_at, uniform

NUM_OTHERS = 4
"""Other prompts of the grid that an image is compared with."""
TIMESTEPS = (0.25, 0.5, 0.75)
"""Shares of the way from the image to noise."""


class PromptMeasure(Protocol):
    """A measure of how well images fit texts."""

    @property
    def name(self) -> str:
        """The name that every result states."""
        ...

    @property
    def judges_style(self) -> bool:
        """True where a style new to the base model lowers the fit."""
        ...

    def fits(self, image: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Compute the fit [K] of an image [3 h w] in [0, 1] to texts. More is a better fit."""
        ...


@dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """The negative loss of the frozen base model under each text. It is that of arXiv 2303.16203, algorithm 1."""

    model: FrozenModel
    name: str = "denoising loss of the base model"
    judges_style: bool = True

    @torch.no_grad()
    def fits(self, image: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Compute the fit [K] of an image [3 h w] in [0, 1] to texts. All have the same noise and timesteps."""
        clean = self.model.latents(image[None]).expand(len(texts), -1, -1, -1)
        prompts = self.model.condition(texts, clean)
        total = torch.zeros(len(texts), dtype=torch.float64)
        for number, u in enumerate(TIMESTEPS):
            t = self.model.timestep(u, clean)
            noise = noise_at(0, [number], clean.shape[1:], "prompt fit").expand_as(clean).to(clean)

            def predict(noisy: Tensor, t: Tensor) -> Tensor:
                return self.model.network(noisy, t, prompts)

            total += denoising_loss(self.model.objective, predict, clean, noise, t).double().cpu()
        return -(total / len(TIMESTEPS)).numpy()


def fits_of_prompt(measure: PromptMeasure, images: Tensor, grid: Grid, number: int) -> dict[str, np.ndarray]:
    """Compare a prompt's images [S 3 h w] with texts.

    Returns the fit to it, `own` [S], to other prompts, `others` [S K], and to captions of training images, `captions`
    [S K], with NaN where the prompt asks for that.
    """
    compared = other_contents(grid, number)
    leaks = leaking_captions(grid, number)
    texts = [grid.prompts[number].content, *compared, *leaks]
    fits = np.stack([measure.fits(image, texts) for image in images])  # [S K]
    padding = np.full((len(images), len(grid.captions) - len(leaks)), np.nan)
    captions = np.concatenate([fits[:, 1 + len(compared) :], padding], axis=1)
    return {"own": fits[:, 0], "others": fits[:, 1 : 1 + len(compared)], "captions": captions}


def leaking_captions(grid: Grid, number: int) -> list[str]:
    """List captions of training images that a prompt does not ask for."""
    asked = words_of(grid.prompts[number].content)
    return [caption for caption in grid.captions if asked.isdisjoint(words_of(caption))]


def other_contents(grid: Grid, number: int) -> list[str]:
    """Choose contents of other prompts that a prompt is compared with. Every prompt has the same number of them."""
    contents = list(dict.fromkeys(prompt.content for prompt in grid.prompts))
    own = grid.prompts[number].content
    others = sorted((each for each in contents if each != own), key=lambda each: uniform(0, "others", own, each))
    return others[: min(NUM_OTHERS, len(contents) - 1)]
