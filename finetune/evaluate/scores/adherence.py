"""Prompt adherence: images that fit their own prompt better than others. Axes as in evidence.py."""

import numpy as np

from finetune.evaluate.evidence import Embedded, Evidence, PromptFit, unit_vectors
from finetune.evaluate.results import About, Score


def prompt_adherence(evidence: Evidence) -> Score:
    """Score how often an image's own prompt fits better than another.

    By default an image strays as far as two witnesses agree, since each has its bias. The base model's denoising loss
    under the prompts (Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv 2303.16203) also judges style: it
    misses the red of an apple in ink. Content features compare with what the base model drew, and read no prompt.
    """
    fit, names = evidence.fit, evidence.fit.name
    if fit.judges_style:
        names += f" and {evidence.content.name}"
    chance = "0.67 is chance" if fit.judges_style else "0.5 is chance"
    meaning = f"How often an image fits its own prompt better than another prompt of the grid: {chance}, 1 always. "
    meaning += "Higher is better."
    about = About(meaning, "higher", names)
    if fit.others.shape[2] == 0:
        return about.absent("the grid has one prompt alone")
    cells, of_base, detail = wins(fit), wins(evidence.base_fit), {}
    if fit.judges_style:
        content = evidence.content
        shown, shown_by_base = nearest_to_own(content, content.samples), nearest_to_own(content, content.base)
        detail = {"by_loss": float(cells.mean()), "by_content": float(shown.mean())}
        cells, of_base = np.maximum(cells, shown), np.maximum(of_base, shown_by_base)
    prompts = list(range(len(evidence.grid.prompts)))
    return about.mean(cells, prompts, base=float(of_base.mean()), **detail)


def wins(fit: PromptFit) -> np.ndarray:
    """Compute the share of other prompts [P S] that fit worse. Equal ones count half."""
    own = fit.own[:, :, None]
    return ((fit.others < own) + 0.5 * (fit.others == own)).mean(2)


def nearest_to_own(content: Embedded, images: np.ndarray) -> np.ndarray:
    """Compute the share of other prompts [P S] whose base images are farther.

    Both sets of images lose their own mean first, so a style that all images share does not count.
    """
    scale = 1 / (content.base.std((0, 1)) + images.std((0, 1)) + 1e-12)
    moved, base = ((each - each.mean((0, 1))) * scale for each in (images, content.base))
    cosines = np.einsum("psd,qd->psq", unit_vectors(moved), unit_vectors(base).mean(1))
    own = np.einsum("psp->ps", cosines)[..., None]
    others = (cosines < own) + 0.5 * (cosines == own)  # a prompt is equal to itself
    return (others.sum(2) - 0.5) / (len(base) - 1)
