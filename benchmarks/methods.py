"""The methods compared at one step budget, on the shipped model.

    python benchmarks/methods.py --data ../shared/data --work runs/methods [--part style] [--steps 300] [--only lora]

Every method of benchmarks/method_list.py is its recipe, run as a process with one list of options. What is trained and
drawn stays in `--work`, so the same command continues after an interruption and prints the tables from what is
there; benchmarks/style_statistics.py computes the figures from images alone.

Style: three sets of 60 pictograms (style_line, style_blob, style_glyph) train a method each. Prompts are concepts that
the base model draws so that their shape is nearest to their own reference of all, and whose words are in no
caption of the three sets.

* distance: of the images to the style set in fixed statistics, as the base model's -> the adapted one's, and
  the ratio of the two; at most half is wanted. Below the base model stand distances without any model: of two
  random halves of the set (chance); of images of the same things in the base's set and in this one (style alone);
  and, both in the base's set, of images of the prompts' things and of this set's (things alone). Where the last is
  as large as the others, these statistics see which things a set shows, and little of its style.
* nearer, tenth: share of images nearer in shape to their concept than the median reference, and of those whose
  concept is among the nearest tenth; 0.5 and 0.1 by chance.

Subject: five views (shifted, turned, on coloured paper) of a pictogram in another colour than the model knows it in,
under a rare word and its class; three subjects, every seed of `--seeds`.

* likeness: of images of the rare word and class to the nearest view; 1 equals it, 0 is as far as unrelated pictograms
  are, as the base model's (which takes the rare word as it comes) -> the adapted one's.
* class likeness: the same for the class alone; it is to stay what it was.
* drift: how far images of the class alone and of other concepts moved from the base model's of the same seeds.

Figures of seeds stand as mean +- half their spread.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

import numpy as np
from diffusers.utils import logging
from method_list import STYLE, SUBJECT, Method
from method_runs import Sampling, drawn, train
from PIL import Image, ImageChops
from quality.features import unit_distance
from style_statistics import (
    concept_figures,
    distances,
    drift,
    halves_distance,
    likeness,
    shapes,
    style_distance,
)

from finetune.files import new_folder
from finetune.launch import quiet_libraries
from tools.colours import recoloured

STYLE_SETS = ("style_line", "style_blob", "style_glyph")
SUBJECTS = {"backpack": ("red", "green"), "umbrella": ("purple", "orange"), "teapot": ("red", "blue")}
"""Class, and the colour turned into another."""
VIEWS = (
    (0, 0, 0, "#ffffff"),
    (5, -3, 12, "#dfeaff"),
    (-6, 2, -15, "#fff0c8"),
    (3, 6, 8, "#e4f5dd"),
    (-2, -6, -8, "#f3e0f4"),
)
"""Shift in pixels to the right and down, turn in degrees, paper."""
OTHERS = ("red apple", "alarm clock", "sailboat", "rocket", "guitar", "tropical fish")
Table = list[tuple[str, ...]]
CaptionedImages = tuple[list[str], np.ndarray]
"""Captions, and the image [N H W 3] in [0, 1] of each."""


def read_set(folder: Path) -> CaptionedImages:
    """Return the set in a folder with its metadata.jsonl."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    images = [np.asarray(Image.open(folder / row["file_name"]).convert("RGB").resize((64, 64))) for row in rows]
    return [row["text"] for row in rows], np.stack(images) / 255.0


def known_concepts(
    data: Path, base: CaptionedImages, work: Path, num: int, sampling: Sampling
) -> tuple[list[str], np.ndarray]:
    """Return up to `num` known captions, and references [num H W 3]."""
    captions, images = base
    taken = {word for name in STYLE_SETS for caption in read_set(data / name)[0] for word in caption.split()}
    free = [number for number, caption in enumerate(captions) if taken.isdisjoint(caption.split())]
    chosen = random.Random(0).sample(free, min(2 * num, len(free)))
    first = Sampling(1, sampling.steps)
    made = drawn(work / "untouched-candidates", [captions[number] for number in chosen], first, None)
    nearest = distances(shapes(made), shapes(images[chosen])).argmin(1)
    known = [number for place, number in enumerate(chosen) if nearest[place] == place][:num]
    return [captions[number] for number in known], images[known]


def style_table(
    data: Path, work: Path, sets: Sequence[str], methods: Sequence[Method], steps: int, seed: int, sampling: Sampling
) -> Table:
    """Train what is missing and return the rows of the style part."""
    base_set = read_set(data / "emoji_base")
    concepts, references = known_concepts(data, base_set, work, 32, sampling)
    repeated = np.concatenate([references] * sampling.num_seeds)
    before = drawn(work / "untouched-style", concepts, sampling, None)
    rows: Table = [("style", "method", "distance", "ratio", "colours", "edges", "saturation", "nearer", "tenth")]
    for name in sets:
        captions, own = read_set(data / name)
        base, known = style_distance(before, own), concept_figures(before, repeated)
        rows.append((name, "untouched", f"{base['total']:.3f}", "1.00", *style_cells(base, known)))
        for label, value in yardsticks(base_set, (captions, own), references):
            rows.append((name, label, f"{value:.3f}", f"{value / base['total']:.2f}"))
        for method in methods:
            folder = trained(work, method, data / name, "", steps, seed)
            if folder is None:
                rows.append((name, method.name, "failed"))
                continue
            prompts = [method.template.format(caption=concept) for concept in concepts]
            after = drawn(folder, prompts, sampling, folder / "run" / "export")
            found = style_distance(after, own)
            ratio = found["total"] / base["total"]
            cells = style_cells(found, concept_figures(after, repeated))
            rows.append((name, method.name, f"{base['total']:.3f} -> {found['total']:.3f}", f"{ratio:.2f}", *cells))
    return rows


def yardsticks(base: CaptionedImages, style: CaptionedImages, references: np.ndarray) -> list[tuple[str, float]]:
    """Measure distances to a style dataset without any model.

    They are by chance, by the style alone, and by the things alone: as the base dataset shows those of the prompts,
    `references` [N H W 3], and those of the style dataset.
    """
    shared = sorted(set(base[0]) & set(style[0]))
    in_base, in_style = (images[[captions.index(caption) for caption in shared]] for captions, images in (base, style))
    return [
        ("halves of the set", halves_distance(style[1])),
        ("style alone", style_distance(in_base, in_style)["total"]),
        ("things alone", style_distance(references, in_base)["total"]),
    ]


def style_cells(found: dict[str, float], concept: dict[str, float]) -> tuple[str, ...]:
    """Return the parts of the distance and the concepts' figures as text."""
    return tuple(f"{value:.3f}" for value in (found["colours"], found["edges"], found["saturation"], *concept.values()))


def subject_table(
    data: Path,
    work: Path,
    classes: Sequence[str],
    methods: Sequence[Method],
    steps: int,
    seeds: Sequence[int],
    sampling: Sampling,
) -> Table:
    """Train what is missing and return the rows of the subject part."""
    captions, images = read_set(data / "emoji_base")
    unit = unit_distance(images[:200])
    rows: Table = [("subject", "method", "likeness", "class likeness", "class drift", "drift of others")]
    for caption in classes:
        image = images[captions.index(caption)]
        folder = write_views(work / "subjects" / caption, image, caption, *SUBJECTS[caption])
        views = read_set(folder)[1]
        for method in methods:
            prompts = [method.template.format(caption=caption), caption, *OTHERS]
            before = by_prompt(drawn(work / f"untouched-{caption}-{method.name}", prompts, sampling, None), prompts)
            found = []
            for seed in seeds:
                run = trained(work, method, folder, caption, steps, seed)
                if run is None:
                    break
                after = by_prompt(drawn(run, prompts, sampling, run / "run" / "export"), prompts)
                others = [drift(after[prompt], before[prompt], unit) for prompt in OTHERS]
                own, kept = likeness(after[prompts[0]], views, unit), likeness(after[caption], views, unit)
                found.append((own, kept, drift(after[caption], before[caption], unit), float(np.mean(others))))
            if len(found) < len(seeds):
                rows.append((caption, method.name, "failed"))
                continue
            first, second, *drifts = zip(*found, strict=True)
            start = [likeness(before[prompt], views, unit) for prompt in prompts[:2]]
            cells = [f"{start[0]:.2f} -> {spread(first)}", f"{start[1]:.2f} -> {spread(second)}", *map(spread, drifts)]
            rows.append((caption, method.name, *cells))
    return rows


def by_prompt(images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the images of each prompt, one per seed."""
    return {prompt: images[place :: len(prompts)] for place, prompt in enumerate(prompts)}


def spread(values: Sequence[float]) -> str:
    """Return mean and half the range as text."""
    return f"{np.mean(values):.2f} +- {(max(values) - min(values)) / 2:.2f}"


def write_views(folder: Path, image: np.ndarray, caption: str, old: str, new: str) -> Path:
    """Write recoloured views of a pictogram [H W 3].

    Colour `old` is turned to `new`; the caption of each is its class.
    """
    if folder.exists():
        return folder
    subject = recoloured(Image.fromarray((image * 255).astype(np.uint8)), old, new)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as unfinished:
        rows = []
        for number, (right, down, turn, paper) in enumerate(VIEWS):
            moved = subject.rotate(turn, Image.Resampling.BICUBIC, translate=(right, down), fillcolor="white")
            ImageChops.multiply(moved, Image.new("RGB", moved.size, paper)).save(unfinished / f"{number}.png")
            rows.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
        (unfinished / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def trained(work: Path, method: Method, data: Path, caption: str, steps: int, seed: int) -> Path | None:
    """Return the folder of the method's run; None where it failed."""
    try:
        return train(work, method, data, caption, steps, seed)
    except subprocess.CalledProcessError as error:
        print(f"{method.part} {method.name} on {data.name}: the recipe ended with {error.returncode}; see its log.")
        return None


def shown(rows: Table) -> str:
    """Return the rows in columns."""
    widths = [max(len(row[place]) for row in rows if place < len(row)) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with emoji_base and the style sets")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=("style", "subject"), help="one part alone")
    parser.add_argument("--steps", type=int, default=300, help="of every run (300)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the subject's runs; style takes the first"
    )
    parser.add_argument("--sets", nargs="+", choices=STYLE_SETS, default=STYLE_SETS, help="of the style part")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=tuple(SUBJECTS))
    parser.add_argument("--only", nargs="+", choices=sorted({method.name for method in (*STYLE, *SUBJECT)}))
    parser.add_argument("--num_pictures", type=int, default=4, help="images of each prompt (4)")
    parser.add_argument("--sampling_steps", type=int, default=20)
    options = parser.parse_args()
    quiet_libraries()
    logging.disable_progress_bar()
    sampling = Sampling(options.num_pictures, options.sampling_steps)
    work, data = options.work.absolute(), options.data.absolute()
    for part, methods in (("style", STYLE), ("subject", SUBJECT)):
        chosen = [method for method in methods if not options.only or method.name in options.only]
        if options.part not in (None, part) or not chosen:
            continue
        if part == "style":
            rows = style_table(data, work, options.sets, chosen, options.steps, options.seeds[0], sampling)
        else:
            rows = subject_table(data, work, options.subjects, chosen, options.steps, options.seeds, sampling)
        print(f"{part}, {options.steps} steps\n{shown(rows)}\n")


if __name__ == "__main__":
    main()
