"""Content leak: things of the training images without being asked for. Axes as in evidence.py."""

import numpy as np

from finetune.evaluate.evidence import Evidence, PromptFit
from finetune.evaluate.results import About, Score


def content_leak(evidence: Evidence) -> Score:
    """Score how often a training caption fits better than the prompt.

    The base model's rate is subtracted. Only prompts count whose content is not in the training set.
    """
    meaning = "How much more often than the base model's an image fits a caption of the training set better than its "
    meaning += "own prompt, which asks for something else. Lower is better; 0 means none."
    about = About(meaning, "lower", evidence.fit.name)
    grid = evidence.grid
    prompts = [
        number
        for number in grid.of_kinds("new_content")
        if evidence.fit.captions.shape[2] and np.isfinite(evidence.fit.captions[number]).any()
    ]
    if not prompts:
        return about.absent("the training images have no captions of other contents than the prompts'")
    base = captions_that_fit_better(evidence.base_fit, prompts)
    cells = captions_that_fit_better(evidence.fit, prompts) - base
    return about.mean(cells, prompts, base=float(base.mean()), captions=list(grid.captions))


def captions_that_fit_better(fit: PromptFit, prompts: list[int]) -> np.ndarray:
    """Compute the share of captions [P S] that fit better than the prompt."""
    captions, own = fit.captions[prompts], fit.own[prompts][:, :, None]
    better = np.where(np.isfinite(captions), captions > own, np.nan)
    return np.nanmean(better, axis=2)
