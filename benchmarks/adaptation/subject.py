"""The subject part: likeness to a subject, and what else moves."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from quality.features import unit_distance
from quality.icons import read_images

from adaptation.concepts import base_images, icons_by_concept
from adaptation.images import Drawing, by_prompt, read_set
from adaptation.methods import Method
from adaptation.runs import Job, Point, draw_job
from adaptation.statistics import drift, likeness
from finetune.files import new_folder
from tools.colours import recoloured

SUBJECTS = {"backpack": ("red", "green"), "umbrella": ("purple", "orange"), "teapot": ("blue", "red")}
"""Class, and the colour of its icon turned into another."""
STYLE = "flat emoji"
"""Of the icons that are turned into subjects."""
VIEWS = (
    (0, 0, 0, "#ffffff"),
    (5, -3, 12, "#dfeaff"),
    (-6, 2, -15, "#fff0c8"),
    (3, 6, 8, "#e4f5dd"),
    (-2, -6, -8, "#f3e0f4"),
)
"""Shift in pixels to the right and down, turn in degrees, paper."""
OTHERS = ("camera", "key", "bell", "sailboat", "guitar", "fish")
HEAD: tuple[str, ...] = ("subject", "method", "likeness", "class likeness", "class drift", "drift of others")


def write_views(folder: Path, icon: Image.Image, caption: str, old: str, new: str) -> Path:
    """Write recoloured views of an icon, whose captions are its class.

    Colour `old` is turned to `new`.
    """
    if folder.exists():
        return folder
    subject = recoloured(icon, old, new)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as unfinished:
        rows = []
        for number, (right, down, turn, paper) in enumerate(VIEWS):
            moved = subject.rotate(turn, Image.Resampling.BICUBIC, translate=(right, down), fillcolor="white")
            ImageChops.multiply(moved, Image.new("RGB", moved.size, paper)).save(unfinished / f"{number}.png")
            rows.append(json.dumps({"file_name": f"{number}.png", "text": caption}) + "\n")
        (unfinished / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def subject_jobs(work: Path, caption: str, methods: Sequence[Method], steps: int) -> list[Job]:
    """List the runs of a subject."""
    return [Job(method, work / "subjects" / caption, caption, (Point(steps),), 0) for method in methods]


def subject_rows(
    icons: Path, work: Path, caption: str, jobs: Sequence[Job], sampling_steps: int, num_seeds: int
) -> Iterator[tuple[str, ...]]:
    """Train what is missing of a subject, and yield its rows."""
    found = icons_by_concept(icons)
    unit = unit_distance(read_images([own[0] for own in list(found.values())[:200]]))
    icon = next(icon for icon in found[caption] if icon.style == STYLE)
    views = read_set(write_views(work / "subjects" / caption, icon.read(), caption, *SUBJECTS[caption]))[1]
    for job in jobs:
        prompts = (job.method.template.format(caption=caption), caption, *OTHERS)
        drawing = Drawing(prompts, sampling_steps, num_seeds)
        before = by_prompt(base_images(work, f"{caption}-{job.method.name}", drawing), prompts)
        drawn = draw_job(work, job, drawing)
        if drawn is None:
            yield caption, job.method.name, "failed"
            continue
        after = by_prompt(drawn[job.points[-1]], prompts)
        likenesses = (
            f"{likeness(before[prompt], views, unit):.2f} -> {likeness(after[prompt], views, unit):.2f}"
            for prompt in prompts[:2]
        )
        others = float(np.mean([drift(after[prompt], before[prompt], unit) for prompt in OTHERS]))
        drifts = drift(after[caption], before[caption], unit), others
        yield caption, job.method.name, *likenesses, *(f"{value:.2f}" for value in drifts)
