"""Content leak: things of the training images without being asked for. Axes as in evidence.py."""

import numpy as np

from finetune.evaluate.evidence import Embedded, Evidence, PromptFit, unit_vectors
from finetune.evaluate.grid import STYLED
from finetune.evaluate.results import About, Score


def content_leak(evidence: Evidence) -> Score:
    """Score how often the training set fits better than the prompt.

    The base model's rate is subtracted. Only prompts count whose content is not in the training set. By default an
    image leaks as far as two witnesses agree, since each has its bias: the base model's denoising loss, by which
    training captions fit, also judges style; content features, by which training images are near, read no caption.
    """
    fit, content, grid = evidence.fit, evidence.content, evidence.grid
    names = f"{fit.name} and {content.name}" if fit.judges_style else fit.name
    meaning = "How much more often than the base model's an image fits the training set better than its own prompt, "
    meaning += "which asks for something else. Lower is better; 0 means none."
    about = About(meaning, "lower", names)
    prompts = [
        number
        for number in grid.of_kinds("new_content")
        if fit.captions.shape[2] and np.isfinite(fit.captions[number]).any()
    ]
    if not prompts:
        return about.absent("the training images have no captions of other contents than the prompts'")
    cells, of_base = (captions_that_fit_better(each, prompts) for each in (fit, evidence.base_fit))
    detail = {}
    if fit.judges_style:
        styled = grid.of_kinds(*STYLED)
        shown, shown_by_base = (
            nearer_training_images(content, images, styled)[prompts] for images in (content.samples, content.base)
        )
        detail = {"by_loss": float(cells.mean()), "by_content": float(shown.mean())}
        cells, of_base = np.minimum(cells, shown), np.minimum(of_base, shown_by_base)
    return about.mean(cells - of_base, prompts, base=float(of_base.mean()), captions=list(grid.captions), **detail)


def captions_that_fit_better(fit: PromptFit, prompts: list[int]) -> np.ndarray:
    """Compute the share of captions [P S] that fit better than the prompt."""
    captions, own = fit.captions[prompts], fit.own[prompts][:, :, None]
    better = np.where(np.isfinite(captions), captions > own, np.nan)
    return np.nanmean(better, axis=2)


def nearer_training_images(content: Embedded, images: np.ndarray, styled: list[int]) -> np.ndarray:
    """Compute the share of training images [P S] that are nearer.

    Each image is compared with them and with the base model's images of the same prompt. Each set of images loses its
    own mean first, of the prompts in the style, so a style that all share does not count.
    """
    scale = 1 / (content.base.std((0, 1)) + images.std((0, 1)) + 1e-12)
    moved = unit_vectors((images - images[styled].mean((0, 1))) * scale)
    base = unit_vectors((content.base - content.base[styled].mean((0, 1))) * scale).mean(1)  # [P D]
    training = unit_vectors((content.training - content.training.mean(0)) * scale)
    near = np.einsum("psd,nd->psn", moved, training)
    return (near > np.einsum("psd,pd->ps", moved, base)[..., None]).mean(2)
