"""CMMD: distance to the training set by a Gaussian kernel."""

import numpy as np

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.results import About, Score
from finetune.evaluate.scores.discrepancy import discrepancy_score, gaussian

FACTOR = 1000
"""The paper shows a thousand times the discrepancy."""


def cmmd(evidence: Evidence) -> Score:
    """Score the unbiased kernel distance of content features."""
    meaning = "Distance of all images of trained prompts to the training set (CMMD on these features, comparable only "
    meaning += "within them). Lower is better."
    about = About(meaning, "lower", evidence.content.name)
    return discrepancy_score(about, evidence.grid, evidence.content, scaled)


def scaled(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the kernel times FACTOR."""
    return FACTOR * gaussian(first, second)
