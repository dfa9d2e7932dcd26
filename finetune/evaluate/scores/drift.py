"""Drift: the distance of neutral prompts' images to the base model's."""

import numpy as np

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score

MEANING = "How far images of prompts without the trigger moved from the base model's: 0 is not at all, 1 as far as two "
MEANING += "unrelated images. Lower is better."
WITHOUT_TRIGGER = " There is no trigger, so the style applies to these prompts too."


def drift(evidence: Evidence) -> Score:
    """Score the distance to the base model's image of the seed."""
    grid, compared = evidence.grid, evidence.content.compared()
    prompts = grid.of_kinds("neutral")
    meaning = MEANING + ("" if grid.has_trigger else WITHOUT_TRIGGER)
    about = About(meaning, "lower", evidence.content.name)
    if len(prompts) < 2:
        return about.absent("there are fewer than two neutral prompts")
    base, samples = compared.base[prompts], compared.samples[prompts]
    moved = 1 - np.einsum("psd,psd->ps", base, samples)
    return about.mean(moved / unrelated_distance(base), prompts)


def unrelated_distance(base: np.ndarray) -> float:
    """Average the distance of images [P S D] of different prompts."""
    num = base.shape[0]
    means = base.mean(1)
    similar = means @ means.T
    return float(1 - (similar.sum() - np.trace(similar)) / (num * (num - 1)))
