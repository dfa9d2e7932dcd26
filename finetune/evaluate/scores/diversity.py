"""Diversity: the number of different images among a prompt's seeds."""

import numpy as np

from finetune.evaluate.evidence import Evidence
from finetune.evaluate.grid import STYLED
from finetune.evaluate.intervals import prompts_interval
from finetune.evaluate.results import About, Score


def diversity(evidence: Evidence) -> Score:
    """Score the mean Vendi score of the trained prompts."""
    grid, compared = evidence.grid, evidence.content.compared()
    prompts = grid.of_kinds(*STYLED)
    meaning = f"How many different images the {len(grid.seeds)} seeds of a prompt give (Vendi score; its interval is "
    meaning += "over prompts alone). Higher is better; near 1 all seeds give the same image."
    found = np.array([vendi(compared.samples[prompt]) for prompt in prompts])
    base = float(np.mean([vendi(compared.base[prompt]) for prompt in prompts]))
    interval = prompts_interval(lambda chosen: float(found[chosen].mean()), len(prompts))
    table = tuple((float(value),) for value in found)
    about = About(meaning, "higher", evidence.content.name)
    return about.measured(interval, len(prompts) * len(grid.seeds), tuple(prompts), table, base=base)


def vendi(vectors: np.ndarray) -> float:
    """Compute the Vendi score of vectors [N D] of length 1.

    It is the exponential of the entropy of the eigenvalues of K / N, with cosines as the kernel K (arXiv 2210.02410,
    definition 3.1).
    """
    values = np.linalg.eigvalsh(vectors @ vectors.T / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
