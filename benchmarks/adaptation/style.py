"""The style part: style distance and concepts kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptation.concepts import Concepts, base_images, true_figures
from adaptation.diffusers_script import Script, draw_script
from adaptation.images import Drawing, read_set
from adaptation.methods import PHRASE, Method
from adaptation.runs import Job, Point, draw_job
from adaptation.statistics import halves_distance, style_distance

BASE_SEEDS = 4
"""Images of each concept that the base model's own retrieval is measured on."""


@dataclass(frozen=True)
class Figures:
    """Of the images of a point."""

    ratio: float
    """Share of the style distance that is left: 1 with the base model under the style's phrase, 0 between random halves
    of the set."""
    top_1: float
    """Share of concepts that are first; 1 is as many as the base model's without a style."""
    top_5: float


@dataclass(frozen=True)
class Row:
    """A point of a method on a set, with each seed's figures."""

    set: str
    method: str
    point: Point | None
    """None for what has no curve."""
    seeds: tuple[Figures, ...]

    @property
    def ratio(self) -> float:
        """The mean of the seeds."""
        return float(np.mean([each.ratio for each in self.seeds]))

    @property
    def kept(self) -> float:
        """The mean of the seeds, of the first five."""
        return float(np.mean([each.top_5 for each in self.seeds]))


@dataclass(frozen=True)
class StyleTrial:
    """The runs, and how they are drawn."""

    data: Path
    icons: Path
    work: Path
    concepts: Concepts
    jobs: dict[str, list[list[Job]]]
    """The runs on each set, those of one method together."""
    scripts: Sequence[Script]
    sampling_steps: int
    images: int
    """Of each concept."""

    def drawing(self, template: str) -> Drawing:
        """Return the drawing of all concepts in a template."""
        prompts = tuple(template.format(caption=name) for name in self.concepts.names)
        return Drawing(prompts, self.sampling_steps, self.images)


def style_jobs(
    data: Path, name: str, method: Method, points: tuple[Point, ...], strengths: Sequence[float], seeds: int
) -> list[Job]:
    """List the runs of a method on a set.

    The repeated method has one per seed, and its last step at several strengths.
    """
    if method.is_repeated:
        points += tuple(Point(points[-1].step, strength) for strength in strengths)
    return [Job(method, data / name, "", points, seed) for seed in range(seeds if method.is_repeated else 1)]


def style_rows(trial: StyleTrial, name: str) -> Iterator[Row]:
    """Train and draw what a set lacks, and yield its rows."""
    captions, own = read_set(trial.data / name)
    alone = Drawing(trial.concepts.names, trial.sampling_steps, BASE_SEEDS)
    known = trial.concepts.figures(base_images(trial.work, "concepts", alone))
    before = base_images(trial.work, "concepts in the phrase", trial.drawing(PHRASE))
    floor = halves_distance(own)
    distance = style_distance(before, own)["total"] - floor
    print(f"{name}: style distance {distance + floor:.3f}, of halves of the set {floor:.3f}", flush=True)

    def figures(images: np.ndarray) -> Figures:
        found = trial.concepts.figures(images)
        kept = {key: value / max(known[key], 1e-9) for key, value in found.items()}
        left = (style_distance(images, own)["total"] - floor) / distance
        return Figures(left, kept["top_1"], kept["top_5"])

    yield Row(name, "base model", None, (figures(before),))
    true = true_figures(trial.icons, (captions, own), trial.concepts)
    kept = (true[key] / max(known[key], 1e-9) for key in ("top_1", "top_5"))
    yield Row(name, "the set itself", None, (Figures(0.0, *kept),))
    for jobs in trial.jobs[name]:
        method = jobs[0].method
        drawn = [draw_job(trial.work, job, trial.drawing(method.template)) for job in jobs]
        done = [images for images in drawn if images is not None]
        for point in done[0] if done else ():
            yield Row(name, method.name, point, tuple(figures(images[point]) for images in done))
    for script in trial.scripts:
        images = draw_script(trial.work, script, trial.data / name, trial.drawing(PHRASE))
        for point, drawn in (images or {}).items():
            yield Row(name, script.name, point, (figures(drawn),))
