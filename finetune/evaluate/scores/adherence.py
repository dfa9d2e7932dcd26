"""Prompt adherence: whether an image fits its own prompt better than others. Axes as in evidence.py."""

import numpy as np

from finetune.evaluate.evidence import Evidence, PromptFit
from finetune.evaluate.results import About, Score


def prompt_adherence(evidence: Evidence) -> Score:
    """Score how often an image's own prompt fits better than another.

    By default the fit is the base model's denoising loss under the prompt (Your Diffusion Model is Secretly a Zero-Shot
    Classifier, arXiv 2303.16203), with the same noise and timesteps for all prompts of an image.
    """
    meaning = "How often an image fits its own prompt better than another prompt of the grid: 0.5 is chance, 1 always. "
    meaning += "Higher is better."
    about = About(meaning, "higher", evidence.fit.name)
    if evidence.fit.others.shape[2] == 0:
        return about.absent("the grid has one prompt alone")
    base = float(wins(evidence.base_fit).mean())
    prompts = list(range(len(evidence.grid.prompts)))
    return about.mean(wins(evidence.fit), prompts, base=base)


def wins(fit: PromptFit) -> np.ndarray:
    """Compute the share of other prompts [P S] that fit worse. Equal ones count half."""
    own = fit.own[:, :, None]
    return ((fit.others < own) + 0.5 * (fit.others == own)).mean(2)
