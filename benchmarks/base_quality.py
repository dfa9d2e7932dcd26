"""Quality of the base model of icons, also on unseen pairs.

    python benchmarks/base_quality.py --icons ../shared/data/icons [--model FOLDER] [--only vae pairs] [--sheet PNG]

It measures concepts that at least five styles and five sets draw, which are those in training. Pairs of a concept and a
set are held out by a hash (tools/icons.py). All seeds are fixed; each figure is printed as its part ends.

* vae: PSNR of held-out icons by style, of the style's mean squared error; the posterior's mode is decoded.
* pairs: drawings of "CONCEPT, STYLE" for held-out drawings, one variant each. Concept: how often the true icon is the
  nearest (top-1), or among the nearest five, of 50 concepts in that style, in the features of quality/features.py.
  Beside it the same for another set's icon of the concept, which shows what the feature can tell. Style: how often
  benchmarks/style_ruler.py names it first, or among the first five, of 54, beside the true icons and what the
  autoencoder leaves of them.
* captions: how often the drawing of a training caption is nearest to its own icon, of those of 200 captions.
* unknown: the concept alone, and in a style, and each with words that no caption had: how often one of the concept's
  icons in any style is nearer than all icons of 49 other concepts; `kept` is the share that the words leave.
* colours: how many of 12 drawings have the colour that the prompt names.
* samplers: the captions with other schedulers and guidance scales; how far guidance and a negative prompt move images,
  in units of the mean distance of two icons; image-to-image and inpainting.
* --sheet: an image of ten concepts in eleven styles and without one.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

from diffusers.utils import logging
from quality.concepts import Trial, autoencoder, captions, colours, pairs, unknown_words
from quality.drawing import load
from quality.icons import known_icons
from quality.pipelines import samplers
from quality.sheet import write_sheet

from finetune.demo.run import BASE_MODEL
from finetune.launch import quiet_libraries
from tools.icons import read_icons

PARTS = {
    "vae": autoencoder,
    "pairs": pairs,
    "captions": captions,
    "unknown": unknown_words,
    "colours": colours,
    "samplers": samplers,
}
LEAST_NUM, LEAST_STEPS = 8, 5
"""A strength of .2 has to leave one step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of Parquet files")
    parser.add_argument("--model", type=Path, default=BASE_MODEL, help="(the model that ships with the project)")
    parser.add_argument("--num", type=int, default=400, help="held-out pairs; half as many captions and concepts (400)")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="these parts, or none")
    parser.add_argument("--sheet", type=Path, help="image file to write")
    options = parser.parse_args()
    if options.num < LEAST_NUM:
        parser.error(f"--num: got {options.num}, expected {LEAST_NUM} or more.")
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps: got {options.steps}, expected {LEAST_STEPS} or more.")
    quiet_libraries()
    logging.disable_progress_bar()
    icons = known_icons(options.icons)
    pipeline = load(options.model)
    trial = Trial(pipeline, icons, read_icons(options.icons), options.num, options.steps, options.guidance)
    for name in options.only:
        started = time.monotonic()
        for label, figures in PARTS[name](trial):
            print(f"{label:56s}  " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
        print(f"# {name}: {time.monotonic() - started:.0f} s", flush=True)
    if options.sheet is not None:
        write_sheet(trial, options.sheet)


if __name__ == "__main__":
    main()
