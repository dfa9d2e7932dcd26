"""Memorisation: images that repeat a training image.

Axes: P prompts, S seeds, N training images, M images that calibrate, D width.
"""

import numpy as np

from finetune.evaluate.evidence import Embedded, Evidence
from finetune.evaluate.grid import STYLED
from finetune.evaluate.results import About, Score

FALSE_ALARMS = 0.05
"""Share of new images of the set that would be called duplicates, where there are enough images to tell."""
DUPLICATE = 0.98
"""Cosine from which two training images are duplicates of each other, which calibrate nothing."""
MOST_NAMED = 20


def memorisation(evidence: Evidence) -> Score:
    """Score the share of images that repeat a training image.

    The nearest training image of every held-out image, and of every training image among the others, says how near two
    images of the set are by chance. An image counts where at most FALSE_ALARMS of those are as near. Of few training
    images it counts where it is nearer than all of them; then 2 / (N + 1) are false alarms, since a new image has N
    chances to be near one, and the N (N - 1) / 2 pairs of the set one each.
    """
    grid, compared = evidence.grid, evidence.layout.compared_blindly()
    prompts = grid.of_kinds(*STYLED)
    usual = calibration(compared)
    least = 1 / (len(usual) + 1)
    level = max(FALSE_ALARMS, 2 * least)
    meaning = "Share of images nearer to a training image than almost all images of the set are to each other. "
    meaning += f"Lower is better; about {level:.0%} are false alarms."
    about = About(meaning, "lower", evidence.layout.name)
    if len(usual) < 2:
        return about.absent("there are fewer than two different images to calibrate the distance with")
    nearest, place = nearest_training(compared.samples[prompts], compared)
    chance = (1 + (usual[None, None] >= nearest[..., None]).sum(-1)) / (len(usual) + 1)  # a conformal p-value
    is_near = chance <= max(FALSE_ALARMS, least)
    copies = [
        {
            "prompt": prompts[row],
            "seed": grid.seeds[column],
            "training_image": evidence.training_names[place[row, column]],
            "cosine": float(nearest[row, column]),
        }
        for row, column in zip(*np.nonzero(is_near), strict=True)
    ]
    copies.sort(key=lambda each: -each["cosine"])
    return about.mean(
        is_near.astype(float),
        prompts,
        false_alarms=level,
        num_calibrating=len(usual),
        threshold=float(np.sort(usual)[-max(1, int(FALSE_ALARMS * (len(usual) + 1)))]),
        copies=copies[:MOST_NAMED],
        nearest=[[evidence.training_names[number] for number in row] for row in place],
    )


def calibration(compared: Embedded) -> np.ndarray:
    """Compute the nearest cosine [M] among images of the set."""
    among = compared.training @ compared.training.T
    np.fill_diagonal(among, -np.inf)
    if compared.mirrored is not None:
        turned = compared.training @ compared.mirrored.T
        np.fill_diagonal(turned, -np.inf)
        among = np.maximum(among, turned)
    is_duplicate = among.max(1, initial=-np.inf) >= DUPLICATE
    found = among[~is_duplicate].max(1, initial=-np.inf)
    if len(compared.held_out):
        shown, _ = nearest_training(compared.held_out[:, None], compared)
        found = np.concatenate([found, shown[shown < DUPLICATE].ravel()])
    return found[np.isfinite(found)]


def nearest_training(vectors: np.ndarray, compared: Embedded) -> tuple[np.ndarray, np.ndarray]:
    """Find the cosine and number [P S] of the nearest training image. It may be mirrored."""
    cosines = vectors @ compared.training.T
    if compared.mirrored is not None:
        cosines = np.maximum(cosines, vectors @ compared.mirrored.T)
    return cosines.max(-1), cosines.argmax(-1)
