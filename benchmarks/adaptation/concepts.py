"""Concepts that the base model draws well, and how many drawings show.

A drawing shows its concept as far as one of the concept's icons, in any style and set, is nearer to it in shape (see
quality/features.py) than the icons of the other concepts. Of all comparisons tried, this one names most true drawings
of the style sets, whose styles no reference has: top-1 and top-5 of 50 are .87 and .95 of style_line, .85 and .89 of
style_blob, .47 and .64 of style_glyph, .33 and .50 of style_freehand. The mean of a concept's icons names .76, .77, .36
and .32 first, colours and edges .46, .66, .08 and .11, shapes cut out and scaled .92, .81, .44 and .32.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality.drawing import load
from quality.features import distances, shapes, shares
from quality.icons import by_concept, known_icons, read_images

from adaptation.images import CaptionedImages, Drawing, kept_or_drawn
from finetune.demo.run import BASE_MODEL
from tools.icons import Icon

LEAST_STYLES, MOST_ICONS = 8, 12
CHOOSING_SEEDS = 2
TRIED = 3
"""Candidates for each concept that is chosen."""


@dataclass(frozen=True)
class Concepts:
    """Concepts with the shapes [M D] of their icons."""

    names: tuple[str, ...]
    references: tuple[np.ndarray, ...]

    def ranks(self, images: np.ndarray) -> np.ndarray:
        """Rank the own concept of each image among all, from 0.

        Images are [K N H W 3], flat: K times one of each concept.
        """
        found = np.stack([distances(shapes(images), each).min(1) for each in self.references], axis=1)
        own = found[np.arange(len(images)), np.arange(len(images)) % len(self.names)]
        return (found < own[:, None]).sum(1)

    def figures(self, images: np.ndarray) -> dict[str, float]:
        """Return how often the own concept is first, and among five."""
        return shares(self.ranks(images))


@functools.cache
def icons_by_concept(folder: Path) -> dict[str, list[Icon]]:
    """List the icons of each concept that the base model may know."""
    return by_concept(known_icons(folder))


def chosen_icons(icons: Sequence[Icon]) -> list[Icon]:
    """Choose a few icons of a concept, the same at each call."""
    return random.Random(0).sample(list(icons), min(MOST_ICONS, len(icons)))


def concepts_of(icons: dict[str, list[Icon]], names: Sequence[str]) -> Concepts:
    """Read the icons of concepts."""
    return Concepts(tuple(names), tuple(shapes(read_images(chosen_icons(icons[name]))) for name in names))


def free_concepts(icons: dict[str, list[Icon]], captions: Sequence[str]) -> list[str]:
    """List concepts of many styles that share no caption's word."""
    taken = {word for caption in captions for word in caption.split()}
    return sorted(
        name
        for name, own in icons.items()
        if taken.isdisjoint(name.split()) and len({icon.style for icon in own}) >= LEAST_STYLES
    )


def choose_concepts(folder: Path, captions: Sequence[str], work: Path, num: int, steps: int) -> Concepts:
    """Choose the concepts that the base model draws best without a style.

    Raises ValueError where the icons have too few.
    """
    icons = icons_by_concept(folder)
    free = free_concepts(icons, captions)
    if len(free) < num:
        raise ValueError(f"--concepts: got {num}, but {len(free)} are in no caption. Give a smaller number.")
    tried = concepts_of(icons, random.Random(0).sample(free, min(TRIED * num, len(free))))
    drawing = Drawing(tried.names, steps, CHOOSING_SEEDS, first_seed=0)
    mean_ranks = tried.ranks(base_images(work, "candidates", drawing)).reshape(CHOOSING_SEEDS, -1).mean(0)
    best = sorted(np.argsort(mean_ranks, kind="stable")[:num])
    return Concepts(tuple(tried.names[n] for n in best), tuple(tried.references[n] for n in best))


def true_figures(folder: Path, style: CaptionedImages, concepts: Concepts) -> dict[str, float]:
    """Measure retrieval of a set's own images among the other concepts."""
    icons = icons_by_concept(folder)
    known = [number for number, caption in enumerate(style[0]) if caption in icons]
    found = []
    for number in known:
        own = concepts_of(icons, [style[0][number]])
        among = Concepts((*own.names, *concepts.names[1:]), (*own.references, *concepts.references[1:]))
        found.append(among.ranks(style[1][number : number + 1])[0])
    return shares(np.array(found)) | {"num": float(len(known))}


def base_images(work: Path, name: str, drawing: Drawing) -> np.ndarray:
    """Return images of the base model."""
    return kept_or_drawn(work / "base model" / f"{name}.npz", drawing, lambda: load(BASE_MODEL))
