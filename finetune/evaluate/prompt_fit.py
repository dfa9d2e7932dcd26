"""The fit of images to prompts: the base model's denoising loss.

Axes: P prompts, S seeds, K texts, C channels, H W latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.evaluate.evidence import PromptFit
from finetune.evaluate.features.model import FrozenModel
from finetune.evaluate.grid import Grid, words_of
from finetune.objectives.diffusion import denoising_loss
from finetune.randomness import noise_at, uniform

NUM_OTHERS = 6
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


def prompt_fit(measure: PromptMeasure, images: Tensor, grid: Grid) -> PromptFit:
    """Compare images [P S 3 h w] with their prompts, other prompts and captions of training images."""
    own, others, captions = [], [], []
    for number, of_prompt in enumerate(images):
        compared = other_contents(grid, number)
        asked = words_of(grid.prompts[number].content)
        leaks = [caption for caption in grid.captions if asked.isdisjoint(words_of(caption))]
        texts = [grid.prompts[number].content, *compared, *leaks]
        fits = np.stack([measure.fits(image, texts) for image in of_prompt])  # [S K]
        own.append(fits[:, 0])
        others.append(fits[:, 1 : 1 + len(compared)])
        padding = np.full((len(of_prompt), len(grid.captions) - len(leaks)), np.nan)
        captions.append(np.concatenate([fits[:, 1 + len(compared) :], padding], axis=1))
    return PromptFit(measure.name, np.stack(own), np.stack(others), np.stack(captions), measure.judges_style)


def other_contents(grid: Grid, number: int) -> list[str]:
    """Choose contents of other prompts that a prompt is compared with. Every prompt has the same number of them."""
    contents = list(dict.fromkeys(prompt.content for prompt in grid.prompts))
    own = grid.prompts[number].content
    others = sorted((each for each in contents if each != own), key=lambda each: uniform(0, "others", own, each))
    return others[: min(NUM_OTHERS, len(contents) - 1)]
