"""Known cases, ranked by the scores of finetune/evaluate.

    python benchmarks/evaluation.py features --icons ../shared/data/icons
    python benchmarks/evaluation.py made     --icons ../shared/data/icons [--trials 10]
    python benchmarks/evaluation.py trained  --data ../shared/data --work runs/evaluation [--trials 10]
    python benchmarks/evaluation.py chosen   --data ../shared/data --work runs/evaluation [--trials 10]

features: how often two icons of one style (or of one concept in different styles) are nearer to each other by a feature
than an icon of another style (concept): the area under the curve, 0.5 by chance.

made: checkpoints made of real icons, so what is right is known. In each trial a style is a training set; a checkpoint
draws things that are not in the set, in the set's style (well trained), in other styles (base model), in both (half
trained), as training images (memorised), as one thing of the set (leaking), or with prompts changed about (permuted).

trained: LoRA runs of the shipped base model. 30, 150 and 400 steps on a style of 60 icons; 400 steps on four of them
(memorising); and a set in which every image shows the same thing (leaking). Runs stay in `--work`; the same command
continues.

chosen: LoRA runs of 800 and of 100 steps that score themselves. Is the step that the rule chooses better than the last
one on held-out images, by features that no score uses, and which step is the best (evaluation_choice.py)?

Each line of `made` and `trained` is a claim, the number of trials in which it holds, and the values of both sides.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

import numpy as np
import torch
from evaluation_cases import CLAIMS, Claim, made_scores
from evaluation_choice import LENGTHS, compared_steps, print_compared
from evaluation_runs import TRAINED_CLAIMS, trained_scores
from torch import Tensor

from finetune.demo.run import BASE_MODEL
from finetune.evaluate.features.base import Feature
from finetune.evaluate.features.model import DenoiserContent, DenoiserStyle, FrozenModel, Latents
from finetune.evaluate.features.pixels import PixelStatistics
from finetune.evaluate.measure import Joined, as_tensor
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from tools.icons import Icon, read_icons

PER_STYLE, LEAST_STYLES = 4, 12
Values = dict[str, dict[str, float | None]]


def shipped_model() -> FrozenModel:
    """Load the base model that ships with the project."""
    source = ModelSource(str(BASE_MODEL))
    family = family_named(find_family(source))
    return FrozenModel(family, family.load(source), torch.device("cpu"))


def compared_features(model: FrozenModel) -> list[Feature]:
    """List the embedded features, and those that the command joins."""
    pixels, style = PixelStatistics(), DenoiserStyle(model)
    return [pixels, style, Joined((pixels, style)), Latents(model), DenoiserContent(model)]


def chosen_icons(icons: Sequence[Icon], num: int) -> list[Icon]:
    """Choose a few icons of each style, of widespread concepts."""
    styles: dict[str, set[str]] = {}
    for icon in icons:
        styles.setdefault(icon.concept, set()).add(icon.style)
    shared = sorted(concept for concept, found in styles.items() if len(found) >= LEAST_STYLES)
    concepts = set(np.random.default_rng(0).permutation(shared)[: 4 * PER_STYLE].tolist())
    found: dict[str, dict[str, Icon]] = {}
    for icon in icons:
        if icon.concept in concepts:
            found.setdefault(icon.style, {}).setdefault(icon.concept, icon)
    return [icon for own in found.values() if len(own) >= PER_STYLE for icon in list(own.values())[:PER_STYLE]][:num]


def area_under_curve(cosines: np.ndarray, same: np.ndarray, other: np.ndarray) -> float:
    """Average how often one of the same is nearer than another."""
    found = [
        (row[near][:, None] > row[far][None]).mean()
        for row, near, far in zip(cosines, same, other, strict=True)
        if near.any() and far.any()
    ]
    return float(np.mean(found))


def print_features(icons: Sequence[Icon], num: int) -> None:
    """Print how well each feature tells styles and concepts apart."""
    chosen, model = chosen_icons(icons, num), shipped_model()
    images: Tensor = model.through_autoencoder(as_tensor(np.stack([np.asarray(icon.read()) for icon in chosen])))
    styles, concepts = (np.array([vars(icon)[name] for icon in chosen]) for name in ("style", "concept"))
    apart = ~np.eye(len(chosen), dtype=bool)
    same_style, same_concept = (names[:, None] == names[None] for names in (styles, concepts))
    print(f"{len(chosen)} icons of {len(set(styles))} styles and {len(set(concepts))} concepts")
    for feature in compared_features(model):
        vectors = feature.encode(images).double().numpy()
        moved = (vectors - vectors.mean(0)) / (vectors.std(0) + 0.1 * vectors.std(0).mean() + 1e-12)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        cosines = moved @ moved.T
        style = area_under_curve(cosines, same_style & apart & ~same_concept, ~same_style & ~same_concept)
        content = area_under_curve(cosines, same_concept & ~same_style, ~same_concept & ~same_style)
        print(f"style {style:.3f}  content {content:.3f}  {feature.name}", flush=True)


def print_claims(claims: Sequence[Claim], trials: Sequence[Values]) -> None:
    """Print each claim with the share of trials in which it holds."""
    for claim in claims:
        pairs = [pair for values in trials if (pair := claim.sides(values)) is not None]
        held = sum(smaller < larger for smaller, larger in pairs)
        sides = "  ".join(f"{smaller:.2f} < {larger:.2f}" for smaller, larger in pairs[:6])
        print(f"{held:3d} of {len(pairs):3d}  {claim.text:58s} {sides}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("features", "made", "trained", "chosen"))
    parser.add_argument("--icons", type=Path, default=Path("../shared/data/icons"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=tuple(LENGTHS), help="of chosen's runs")
    parser.add_argument("--num", type=int, default=200, help="icons that features are compared on")
    options = parser.parse_args()
    if options.part == "features":
        print_features(read_icons(options.icons), options.num)
    elif options.part == "made":
        icons, model = read_icons(options.icons), shipped_model()
        print_claims(CLAIMS, [made_scores(icons, model, trial) for trial in range(options.trials)])
    elif options.part == "chosen":
        pairs = [(length, trial) for trial in range(options.trials) for length in options.lengths]
        print_compared([compared_steps(options.data, options.work, *pair) for pair in pairs])
    else:
        print_claims(TRAINED_CLAIMS, [trained_scores(options.data, options.work, t) for t in range(options.trials)])


if __name__ == "__main__":
    main()
