"""The methods compared at one step budget, on the shipped model.

    python benchmarks/methods.py --data ../shared/data --work runs/methods [--part style] [--only lora]
        [--diffusers_examples diffusers/examples] [--quick]

Every method of benchmarks/adaptation/methods.py is its recipe, run as a process. `--work` keeps what is drawn, so the
same command continues after an interruption, and prints the tables from what is there. The numbers of runs and images
are printed first. The whole is 44 runs of 200 steps (style), 8 of diffusers' script of 200 or 800 steps, and 21 of 100
steps (subject), with 15,900 images: about 2 h 40 min on two quiet cores of an Intel Xeon with AMX, where a step takes
0.35 s, a run 15 s more, and an image 0.18 s. `--quick` tries every part in minutes; its figures mean nothing.

Style: four sets of 60 images (style_line, style_glyph, style_blob, style_freehand) train each method, with captions
"CONCEPT, zqx style". Fifty concepts that the base model draws well, and whose words are in no caption, are drawn in
that phrase at several steps of each run, and by LoRA at several strengths. `lora` has `--seeds` runs, others one.

* distance left: of the images to the set in fixed statistics (benchmarks/adaptation/statistics.py), which no training
  and no choice of a checkpoint uses. 1 is the distance of the base model under the same prompts; 0 is that of random
  halves of the set, which hold other concepts too.
* kept: how often the drawn concept is first, or among the first five, of the fifty, by the icons of other styles
  (benchmarks/adaptation/concepts.py). 1 is as often as the base model's for the concept alone. "The set itself" has
  the set's true images of concepts that have icons, each among 49 others: what the measure sees of that style.
* images until: those seen until 0.25 of the distance is left at most, with 0.8 kept of the first five.
* `--work`/curves.png: kept against distance, a line per method through its steps, dotted through strengths.
* diffusers' script (`--diffusers_examples`, a folder of its repository): equal images, batch and steps, at its default
  rate and rank (1e-4, 4), which also trains for longer, and at those of `lora`.

The rate falls to 0 over the steps of a run, so an early point is not what a shorter run would reach.

Subject: five views (shifted, turned, on coloured paper) of an icon in another colour than the model knows it in, under
a rare word and its class; three subjects.

* likeness: of images of the rare word and class to the nearest view; 1 equals it, 0 is as far as unrelated icons are,
  as the base model's -> the adapted one's.
* class likeness: the same for the class alone; it is to stay what it was.
* drift: how far images of the class alone and of other concepts moved from the base model's of the same seeds.

Figures of several seeds have half their range after "+-".
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

from adaptation.concepts import choose_concepts
from adaptation.diffusers_script import Script, scripts_of
from adaptation.images import read_set
from adaptation.methods import STYLE, SUBJECT, Method
from adaptation.report import columns, curve_table, save_curves, until_table
from adaptation.runs import Point
from adaptation.style import StyleTrial, style_jobs, style_rows
from adaptation.subject import HEAD, OTHERS, SUBJECTS, subject_jobs, subject_rows
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from finetune.launch import quiet_libraries

STYLE_SETS = ("style_line", "style_glyph", "style_blob", "style_freehand")
LONGER = (400, 800)
"""Further steps of diffusers' script at its default rate."""
QUICK = {
    "at": [2, 4], "concepts": 6, "sampling_steps": 3, "sets": STYLE_SETS[:1], "subjects": ("umbrella",),
    "strengths": [0.65], "seeds": 1, "subject_steps": 4, "longer": [6],
}  # fmt: skip
SECONDS = {"run": 15.0, "step": 0.35, "image": 0.012}
"""On two quiet cores: the start and end of a run, a step, a denoising step of an image."""


def arguments() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = sorted({method.name for method in (*STYLE, *SUBJECT)})
    parser.add_argument("--data", type=Path, required=True, help="folder with icons and the style sets")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=("style", "subject"), help="one part alone")
    parser.add_argument("--only", nargs="+", choices=methods, default=methods, help="these methods")
    parser.add_argument("--sets", nargs="+", choices=STYLE_SETS, default=STYLE_SETS)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=tuple(SUBJECTS))
    parser.add_argument("--at", type=int, nargs="+", default=[25, 50, 100, 150, 200], help="steps that are drawn")
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.5, 0.65, 0.8], help="beside 1, of lora")
    parser.add_argument("--seeds", type=int, default=3, help="runs of lora on each set (3)")
    parser.add_argument("--subject_steps", type=int, default=100)
    parser.add_argument("--concepts", type=int, default=50)
    parser.add_argument("--images", type=int, default=1, help="of each concept; of a subject's prompt four times (1)")
    parser.add_argument("--sampling_steps", type=int, default=15)
    parser.add_argument("--diffusers_examples", type=Path, help="folder examples of a diffusers checkout")
    parser.add_argument("--longer", type=int, nargs="*", default=LONGER, help="further steps of diffusers' defaults")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, where these are not given")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if options.at != sorted(set(options.at)) or any(step < 1 or step % options.at[0] for step in options.at):
        parser.error(f"--at: got {options.at}, expected rising multiples of the first, e.g. 25 50 100.")
    if any(step % options.at[0] for step in options.longer):
        parser.error(f"--longer: got {options.longer}, expected multiples of {options.at[0]}, the first of --at.")
    if options.concepts < 2 or options.seeds < 1:
        parser.error("--concepts, --seeds: expected at least 2 concepts and 1 seed.")
    return options


def print_expected(what: str, runs: Sequence[tuple[int, int]], sampling_steps: int) -> None:
    """Print the numbers of runs and images.

    Each run is given as its steps and images.
    """
    steps, images = (sum(run[place] for run in runs) for place in (0, 1))
    seconds = len(runs) * SECONDS["run"] + steps * SECONDS["step"] + images * sampling_steps * SECONDS["image"]
    print(
        f"{what}: {len(runs)} runs, {steps:,} steps, {images:,} images; about {seconds / 60:.0f} minutes on two quiet "
        "cores.",
        flush=True,
    )


def style_part(options: argparse.Namespace, methods: Sequence[Method], scripts: Sequence[Script]) -> None:
    """Run and print the style part."""
    data, work, points = options.data.absolute(), options.work.absolute(), tuple(map(Point, options.at))
    jobs = {
        name: [style_jobs(data, name, method, points, options.strengths, options.seeds) for method in methods]
        for name in options.sets
    }
    per_point = options.concepts * options.images
    every = [job for of_set in jobs.values() for of_method in of_set for job in of_method]
    runs = [(job.steps, len(job.points) * per_point) for job in every]
    runs += [(each.points[-1].step, len(each.points) * per_point) for each in scripts] * len(options.sets)
    print_expected("style", runs, options.sampling_steps)
    if not scripts:
        print("style: without diffusers' script; --diffusers_examples was not given.", flush=True)
    captions = [caption for name in STYLE_SETS for caption in read_set(data / name)[0]]
    concepts = choose_concepts(data / "icons", captions, work, options.concepts, options.sampling_steps)
    print(f"style: concepts {', '.join(concepts.names)}", flush=True)
    trial = StyleTrial(data, data / "icons", work, concepts, jobs, scripts, options.sampling_steps, options.images)
    rows = [row for name in options.sets for row in style_rows(trial, name)]
    print(f"\nstyle, {options.at[-1]} steps\n{columns(curve_table(rows))}\n")
    print(
        f"images until a quarter of the distance is left, with .8 kept of the first five\n{columns(until_table(rows))}"
    )
    save_curves(rows, work / "curves.png")
    print(f"curves: {work / 'curves.png'}\n", flush=True)


def subject_part(options: argparse.Namespace, methods: Sequence[Method]) -> None:
    """Run and print the subject part."""
    data, work, num_seeds = options.data.absolute(), options.work.absolute(), 4 * options.images
    jobs = {name: subject_jobs(work, name, methods, options.subject_steps) for name in options.subjects}
    images = num_seeds * (len(OTHERS) + 2)
    runs = [(job.steps, images) for of_subject in jobs.values() for job in of_subject]
    print_expected("subject", runs, options.sampling_steps)
    rows = [HEAD]
    for name, of_subject in jobs.items():
        rows += subject_rows(data / "icons", work, name, of_subject, options.sampling_steps, num_seeds)
    print(f"\nsubject, {options.subject_steps} steps\n{columns(rows)}")


def main() -> None:
    options = arguments()
    quiet_libraries()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    scripts = scripts_of(options.diffusers_examples, tuple(map(Point, options.at)), options.longer)
    for part, methods in (("style", STYLE), ("subject", SUBJECT)):
        chosen = [method for method in methods if method.name in options.only]
        if options.part not in (None, part) or not chosen:
            continue
        if part == "style":
            style_part(options, chosen, scripts)
        else:
            subject_part(options, chosen)


if __name__ == "__main__":
    main()
