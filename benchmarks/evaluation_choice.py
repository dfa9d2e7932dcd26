"""The chosen step against the last and the best, on held-out images.

A fifth of a style set is held out. Runs score themselves as the recipe does; then all scored steps draw the held-out
captions. Two figures are taken, of features that no score uses (style_ruler.py, quality/features.py `shapes`):

* style: how alike drawn images are to the held-out ones of other concepts; 0 is the base model's under the same
  prompts, 1 is what held-out images are to each other.
* content: how much more alike in shape an image is to the held-out image of its own caption than to the others; 0 is
  none, 1 is as much as the base model's image of the caption without a style.

Better is the larger sum. Its interval is over captions and seeds. The best of several steps is also the luckiest one,
so it seems better than it is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptation.images import CaptionedImages, Drawing, kept_or_drawn, read_set
from evaluation_runs import STYLES, choose_images, train
from quality.drawing import load
from quality.features import shapes
from style_ruler import StyleRuler, load_ruler

from finetune.demo.run import BASE_MODEL
from finetune.evaluate.intervals import Interval, mean_interval
from finetune.evaluate.rows import read_rows
from finetune.evaluate.running.desk import SCORED

TEMPLATE = "{caption}, zqx style"
LENGTHS = {"long": (800, 100), "short": (100, 25)}
"""Steps of a run, and between two that are scored."""
HELD_OUT, NUM_SEEDS, SAMPLING_STEPS = 5, 4, 20
"""Every so many images is held out; each of their captions is drawn so many times, in so many steps."""


@dataclass(frozen=True)
class Compared:
    """The chosen, the last and the best step of a run."""

    style_set: str
    length: str
    seed: int
    steps: tuple[int, int, int]
    styles: tuple[float, float]
    contents: tuple[float, float]
    better_by: Interval
    """The chosen one's sum minus the last one's."""
    best_by: Interval
    """The best one's sum minus the chosen one's."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out images, and the base model's images of their captions."""

    captions: tuple[str, ...]
    images: np.ndarray
    """[N H W 3]"""
    styled: np.ndarray
    """[S N H W 3], in the style's words, which the base model does not know."""
    plain: np.ndarray
    """[S N H W 3], of the captions alone."""

    def figures(self, drawn: np.ndarray, ruler: StyleRuler) -> tuple[np.ndarray, np.ndarray]:
        """Measure style and content of images [S N H W 3], [N S] each."""
        true = ruler_features(self.images, ruler)
        zero, one = (others_mean(each @ true.T) for each in (ruler_features(self.styled, ruler), true))
        styles = others_mean(ruler_features(drawn, ruler) @ true.T)
        own = shapes(self.images)
        contents, unit = (own_above_others(by_seed(shapes, each) @ own.T) for each in (drawn, self.plain))
        return ((styles - zero.mean()) / (one.mean() - zero.mean())).T, (contents / unit.mean()).T


def by_seed(features: Any, images: np.ndarray) -> np.ndarray:
    """Describe images [S N H W 3] by features, [S N D]."""
    return np.stack([features(each) for each in images])


def ruler_features(images: np.ndarray, ruler: StyleRuler) -> np.ndarray:
    """Describe the style of images [... H W 3], [... D]."""
    flat = torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        return ruler.features(flat).numpy().reshape(*images.shape[:-3], -1)


def others_mean(cosines: np.ndarray) -> np.ndarray:
    """Average cosines [... N N] over the images of other captions."""
    num = cosines.shape[-1]
    return (cosines.sum(-1) - np.diagonal(cosines, axis1=-2, axis2=-1)) / (num - 1)


def own_above_others(cosines: np.ndarray) -> np.ndarray:
    """Compare the cosine with the own image with the others' mean."""
    return np.diagonal(cosines, axis1=-2, axis2=-1) - others_mean(cosines)


def compared_steps(data: Path, work: Path, length: str, trial: int) -> Compared:
    """Train a run, or continue it, and compare its steps. The number of a trial chooses style and seed."""
    style, seed = STYLES[trial % len(STYLES)], trial // len(STYLES)
    own = work / f"{style}-{length}-seed{seed}"
    total = len((data / style / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    taken = range(seed % HELD_OUT, total, HELD_OUT)
    choose_images(data / style, own / "training", [number for number in range(total) if number not in taken])
    choose_images(data / style, own / "held out", taken)
    steps, every = LENGTHS[length]
    options = ["--data.template", TEMPLATE, "--evaluate.every", str(every), "--checkpoint.every", str(every)]
    run = train(own / "training", own / "run", steps, seed, options)
    held_out = read_held_out(read_set(own / "held out"), own / "base model")
    chosen = int(json.loads((run / "best.json").read_text(encoding="utf-8"))["step"])
    scored, ruler = [row["step"] for row in read_rows(run / "scores.jsonl")], load_ruler()
    found = {step: held_out.figures(draw_step(run, step, held_out.captions, own), ruler) for step in scored}
    sums = {step: style_cells + content_cells for step, (style_cells, content_cells) in found.items()}
    best = max(sums, key=lambda step: sums[step].mean())
    styles, contents = ([float(found[step][part].mean()) for step in (chosen, steps)] for part in (0, 1))
    return Compared(
        *(style, length, seed, (chosen, steps, best)),
        *((styles[0], styles[1]), (contents[0], contents[1])),
        *(mean_interval(sums[chosen] - sums[steps]), mean_interval(sums[best] - sums[chosen])),
    )


def read_held_out(held_out: CaptionedImages, kept: Path) -> HeldOut:
    """Draw held-out captions with the base model, in the style and plain."""
    captions, images = held_out
    drawn = [
        kept_or_drawn(kept / f"{name}.npz", drawing_of(captions, template), lambda: load(BASE_MODEL))
        for name, template in (("styled", TEMPLATE), ("plain", "{caption}"))
    ]
    styled, plain = (each.reshape(NUM_SEEDS, *images.shape) for each in drawn)
    return HeldOut(tuple(captions), images, styled, plain)


def draw_step(run: Path, step: int, captions: Sequence[str], kept: Path) -> np.ndarray:
    """Draw held-out captions with a scored step's adapter, [S N H W 3]."""

    def pipeline() -> Any:
        loaded = load(BASE_MODEL)
        loaded.load_lora_weights(str(run / SCORED / f"step_{step:06d}"))
        return loaded

    images = kept_or_drawn(kept / f"step{step}.npz", drawing_of(captions, TEMPLATE), pipeline)
    return images.reshape(NUM_SEEDS, len(captions), *images.shape[1:])


def drawing_of(captions: Sequence[str], template: str) -> Drawing:
    """Return the drawing of captions in a template."""
    return Drawing(tuple(template.format(caption=each) for each in captions), SAMPLING_STEPS, NUM_SEEDS)


def print_compared(found: Sequence[Compared]) -> None:
    """Print each run, and how often the chosen step is better."""
    print(
        f"{'set':15s} {'steps':>5s} {'seed':>4s} {'chosen':>6s}  style chosen, last  content chosen, last  "
        f"{'better than the last by':24s}  best  by"
    )
    for each in found:
        chosen, last, best = each.steps
        print(
            f"{each.style_set:15s} {last:5d} {each.seed:4d} {chosen:6d}"
            f"  {each.styles[0]:12.2f} {each.styles[1]:5.2f}  {each.contents[0]:14.2f} {each.contents[1]:5.2f}"
            f"  {shown(each.better_by):24s} {best:5d}  {shown(each.best_by)}",
            flush=True,
        )
    for length in LENGTHS:
        if not (runs := [each for each in found if each.length == length]):
            continue
        better, worse = (sum(sign * each.better_by.value > 0 for each in runs) for sign in (1, -1))
        beyond = sum(each.better_by.high < 0 for each in runs)
        clear = sum(each.better_by.low > 0 for each in runs)
        missed = sum(each.best_by.low > 0 for each in runs)
        print(
            f"{length}: of {len(runs)} runs the chosen step is better than the last in {better} ({clear} beyond the "
            f"interval), worse in {worse} ({beyond} beyond it), the last one in {len(runs) - better - worse}; another "
            f"is better beyond the interval in {missed}"
        )


def shown(interval: Interval) -> str:
    """Show a difference with its interval."""
    return f"{interval.value:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
