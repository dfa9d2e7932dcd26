"""Icons that a trial of the base model draws and compares with."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.icons import Icon, IconsConfig, often_drawn, read_icons

NUM_CANDIDATES = 50
UNKNOWN = ("ink on papyrus", "sks style", "in the style of vhorq", "xylth art", "by a stranger")
"""Phrases that no caption had."""


@dataclass(frozen=True)
class Pair:
    """A held-out icon and what its drawing is compared with."""

    icon: Icon
    others: tuple[Icon, ...]
    """Of its style, one of each of 49 other concepts."""
    elsewhere: Icon
    """Of its concept, by another set."""

    @property
    def caption(self) -> str:
        """Return the prompt that names concept and style."""
        return f"{self.icon.concept}, {self.icon.style}"


def known_icons(folder: Path) -> list[Icon]:
    """List the icons whose concept was in training, held-out ones too.

    Raises ValueError where the folder has none.
    """
    config = IconsConfig(folder, folder)
    icons = often_drawn(read_icons(folder), config)
    styles = by_concept([icon for icon in icons if not icon.is_held_out])
    known = {concept for concept, drawn in styles.items() if len({icon.style for icon in drawn}) >= config.least_styles}
    if not known:
        raise ValueError(f"--icons: {folder} has no Parquet files with icons. Give the folder that has them.")
    return [icon for icon in icons if icon.concept in known]


def by_concept(icons: Sequence[Icon]) -> dict[str, list[Icon]]:
    """Group icons by their concept."""
    found = defaultdict[str, list[Icon]](list)
    for icon in icons:
        found[icon.concept].append(icon)
    return dict(found)


def held_out_pairs(icons: Sequence[Icon], num: int) -> list[Pair]:
    """Choose held-out drawings, each in one of its variants.

    Styles of fewer than 50 concepts are left out.
    """
    dice, concepts, styles = random.Random(0), by_concept(icons), defaultdict[str, dict[str, Icon]](dict)
    for icon in icons:
        styles[icon.style].setdefault(icon.concept, icon)
    held_out = [icon for icon in icons if icon.is_held_out and len(styles[icon.style]) >= NUM_CANDIDATES]
    dice.shuffle(held_out)
    pairs = dict[tuple[str, str], Pair]()
    for icon in held_out:
        elsewhere = [other for other in concepts[icon.concept] if other.set != icon.set]
        if len(pairs) == num or (icon.concept, icon.set) in pairs or not elsewhere:
            continue
        others = [other for concept, other in styles[icon.style].items() if concept != icon.concept]
        chosen = tuple(dice.sample(others, NUM_CANDIDATES - 1))
        pairs[icon.concept, icon.set] = Pair(icon, chosen, dice.choice(elsewhere))
    return list(pairs.values())


def training_icons(icons: Sequence[Icon], num: int) -> list[Icon]:
    """Choose icons of training, one of each of `num` concepts."""
    dice, concepts = random.Random(0), by_concept([icon for icon in icons if not icon.is_held_out])
    return [dice.choice(concepts[concept]) for concept in dice.sample(sorted(concepts), min(num, len(concepts)))]


def read_images(icons: Sequence[Icon]) -> np.ndarray:
    """Decode icons to [N 64 64 3] in [0, 1]."""
    return np.stack([np.asarray(icon.read(), np.float32) for icon in icons]) / 255
