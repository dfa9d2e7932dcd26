"""Pairs of images in a random order, with random sides. Torch-free."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.rate.targets import RatedTarget
from finetune.records.image_file import read_image_file


@dataclass(frozen=True)
class RatedImage:
    """One image of a pair."""

    target: str
    path: Path
    sha256: str
    """Of the pixels."""


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt and seed."""

    key: str
    """The same for the same two images, whichever target is named first."""
    prompt: str
    seed: int
    left: RatedImage
    right: RatedImage


def make_pairs(first: RatedTarget, second: RatedTarget, seed: int) -> tuple[list[Pair], int]:
    """Pair the images of two targets. Also counts the pairs of equal images, which are left out."""
    shared = sorted(set(first.images) & set(second.images))
    if not shared:
        raise ValueError(
            f"targets: {first.name} and {second.name} have no prompt and seed in common. Score both with the same "
            "prompts: --grid.prompts, --grid.num_seeds."
        )
    pairs: list[Pair] = []
    for prompt, number in shared:
        ours, theirs = (rated_image(target, target.images[prompt, number]) for target in (first, second))
        if ours.sha256 == theirs.sha256:
            continue
        named = json.dumps([prompt, number, *sorted((ours.sha256, theirs.sha256))])
        key = hashlib.sha256(named.encode("ascii")).hexdigest()[:20]
        inner = sorted((ours, theirs), key=lambda image: image.sha256)
        if random.Random(f"{seed} {key}").random() < 0.5:
            inner.reverse()
        pairs.append(Pair(key, prompt, number, *inner))
    if not pairs:
        raise ValueError(f"targets: all images of {first.name} and {second.name} are equal. Name other checkpoints.")
    return in_random_order(pairs, seed), len(shared) - len(pairs)


def in_random_order(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Order pairs by chance. The same seed gives the same order."""
    ordered = sorted(pairs, key=lambda pair: pair.key)
    random.Random(seed).shuffle(ordered)
    return ordered


def rated_image(target: RatedTarget, path: Path) -> RatedImage:
    """Read an image of a pair."""
    try:
        return RatedImage(target.name, path, read_image_file(path).sha256)
    except (OSError, ValueError) as error:
        raise ValueError(f"targets: {path} cannot be read ({error}). Draw it again: finetune evaluate.") from error
