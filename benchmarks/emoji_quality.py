"""Quality of a small model trained from scratch.

It measures the autoencoder, whether images show their captions, and variety.

    python benchmarks/emoji_quality.py --data ../shared/data/emoji_base [--model FOLDER] [--num 200] [--steps 30]

Figures, all for fixed seeds:

* PSNR of the autoencoder over all images, from the mean of their squared errors, and the mean of their PSNRs; the
  posterior's mode is decoded.
* Retrieval: for `--num` captions drawn once from the data, how often the image that the model makes is nearest to the
  reference of its own caption among the references of all of them (top-1), or among the five nearest (top-5), for
  several guidance scales. Distance is Euclidean in a fixed feature: the image averaged to 16x16 pixels, RGB in
  [0, 1], and beside it, with twice the weight, how much neighbouring pixels of the grey image differ, averaged to
  16x16.
* Samplers: the same retrieval at guidance 3 with other schedulers, which take their settings from the model's own.
* Guidance: how far images move, in the same feature, when the scale goes from 1 to each other one, in units of the
  mean distance between two references; and their mean saturation.
* Variety: the mean distance between images of one generic caption from different seeds, in the same units.
* Composition: for things in colours that the data does not show them in, how often the colour that covers most of the
  drawing is the one asked for.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image
from quality.concepts import colours_right
from quality.drawing import SAMPLERS, decoded, draw, load
from quality.features import colours_and_edges, ranks, saturation, shares, unit_distance

from finetune.demo.run import BASE_MODEL

GUIDANCE_SCALES = (1.0, 3.0, 5.0, 7.0)
GENERIC = ("face", "heart", "flag", "person", "button", "flower", "fish", "house")
COMPOSED = [
    f"{colour} {thing}" for thing in ("car", "house", "cat face", "umbrella") for colour in ("blue", "green", "red")
]


def autoencoder_psnr(pipeline: StableDiffusionPipeline, images: np.ndarray) -> tuple[float, float]:
    """Return the PSNR of the mean squared error, and the mean PSNR. Both are in dB."""
    errors = np.square(decoded(pipeline, images) - images).mean((1, 2, 3))
    return -10 * np.log10(np.mean(errors)), float(np.mean(-10 * np.log10(errors)))


def read_data(data: Path) -> tuple[list[str], np.ndarray]:
    """Return the captions and the RGB images [N H W 3]. Values are in [0, 1]."""
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    images = np.stack([np.asarray(Image.open(data / row["file_name"]).convert("RGB")) for row in rows]) / 255.0
    return [row["text"] for row in rows], images


def measure(model: Path, data: Path, num: int, steps: int) -> dict[str, object]:
    """Return all figures by name."""
    pipeline = load(model)
    texts, images = read_data(data)
    figures: dict[str, object] = dict(zip(("psnr", "psnr_mean"), autoencoder_psnr(pipeline, images), strict=True))
    chosen = random.Random(0).sample(range(len(texts)), min(num, len(texts)))
    references, unit = colours_and_edges(images[chosen]), unit_distance(images[chosen])
    captions, seeds = [texts[index] for index in chosen], range(len(chosen))
    first = None
    for scale in GUIDANCE_SCALES:
        drawn = draw(pipeline, captions, seeds, scale, steps)
        found = colours_and_edges(drawn)
        first = found if first is None else first
        moved = float(np.linalg.norm(found - first, axis=1).mean() / unit)
        nearest = shares(ranks(found, references))
        figures[f"guidance {scale:g}"] = {**nearest, "moved": moved, "saturation": saturation(drawn)}
    figures["saturation of data"] = saturation(images[chosen])
    shipped = pipeline.scheduler
    for name, sampler in SAMPLERS.items():
        pipeline.scheduler = sampler.from_config(shipped.config)
        drawn = draw(pipeline, captions, seeds, 3.0, steps)
        figures[name] = shares(ranks(colours_and_edges(drawn), references))
    pipeline.scheduler = shipped
    figures["variety"] = {
        caption: unit_distance(draw(pipeline, [caption] * 8, range(8), 3.0, steps)) / unit for caption in GENERIC
    }
    drawn = draw(pipeline, COMPOSED, range(len(COMPOSED)), 5.0, steps)
    figures["composition"] = colours_right(COMPOSED, drawn)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=BASE_MODEL, help="(the model that ships with the project)")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    for name, value in measure(options.model, options.data, options.num, options.steps).items():
        inner = value if isinstance(value, dict) else {"": value}
        print(f"{name:20s} " + "  ".join(f"{key} {number:.3f}".strip() for key, number in inner.items()))


if __name__ == "__main__":
    main()
