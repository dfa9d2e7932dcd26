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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from PIL import Image

from finetune.demo.run import BASE_MODEL
from tools.colours import main_colour

GUIDANCE_SCALES = (1.0, 3.0, 5.0, 7.0)
GENERIC = ("face", "heart", "flag", "person", "button", "flower", "fish", "house")
COMPOSED = [
    f"{colour} {thing}" for thing in ("car", "house", "cat face", "umbrella") for colour in ("blue", "green", "red")
]
SAMPLERS: dict[str, Any] = {
    "DDIM": DDIMScheduler,
    "PNDM": PNDMScheduler,
    "Euler": EulerDiscreteScheduler,
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "DDPM": DDPMScheduler,
}
BATCH = 50


def features(pictures: np.ndarray) -> np.ndarray:
    """Return the fixed feature [N D] of images [N H W 3]. Values are in [0, 1]."""
    grey = pictures.mean(-1)
    down = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    across = np.abs(np.diff(grey, axis=2, append=grey[:, :, -1:]))
    colours, edges = averaged(pictures), 2 * averaged((down + across)[..., None])
    return np.concatenate([colours.reshape(len(pictures), -1), edges.reshape(len(pictures), -1)], axis=1)


def averaged(planes: np.ndarray) -> np.ndarray:
    """Return planes [N H W C] averaged to [N 16 16 C]."""
    num, height, width, channels = planes.shape
    return planes.reshape(num, 16, height // 16, 16, width // 16, channels).mean((2, 4))


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances [N M]."""
    return np.linalg.norm(first[:, None] - second[None], axis=-1)


def autoencoder_psnr(pipeline: StableDiffusionPipeline, pictures: np.ndarray) -> tuple[float, float]:
    """Return the PSNR of the mean squared error, and the mean PSNR. Both are in dB."""
    errors = []
    for start in range(0, len(pictures), BATCH):
        pixels = torch.from_numpy(pictures[start : start + BATCH]).permute(0, 3, 1, 2).float() * 2 - 1
        with torch.no_grad():
            decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
        errors += ((decoded.clamp(-1, 1) - pixels) / 2).square().flatten(1).mean(1).tolist()
    return -10 * np.log10(np.mean(errors)), float(np.mean(-10 * np.log10(errors)))


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], scale: float, steps: int
) -> np.ndarray:
    """Return images [N H W 3] in [0, 1]."""
    drawn = []
    for start in range(0, len(prompts), BATCH):
        chosen = slice(start, start + BATCH)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[chosen]]
        options: Any = {"guidance_scale": scale, "generator": generators, "output_type": "np"}
        result: Any = pipeline(prompts[chosen], num_inference_steps=steps, **options)
        drawn.append(result.images)
    return np.concatenate(drawn)


def saturation(pictures: np.ndarray) -> float:
    """Return the mean of (max - min) over the colour channels."""
    return float((pictures.max(-1) - pictures.min(-1)).mean())


def top_ranks(found: np.ndarray, references: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Count how often `own[i]` is nearest to `found[i]`, or among five. Both are shares of all images."""
    ranks = (distances(found, references).argsort(1) == own[:, None]).argmax(1)
    return {"top_1": float((ranks < 1).mean()), "top_5": float((ranks < 5).mean())}


def read_data(data: Path) -> tuple[list[str], np.ndarray]:
    """Return the captions and the RGB images [N H W 3]. Values are in [0, 1]."""
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    pictures = np.stack([np.asarray(Image.open(data / row["file_name"]).convert("RGB")) for row in rows]) / 255.0
    return [row["text"] for row in rows], pictures


def load(model: Path) -> StableDiffusionPipeline:
    """Return the pipeline in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(model: Path, data: Path, num: int, steps: int) -> dict[str, object]:
    """Return all figures by name."""
    pipeline = load(model)
    texts, pictures = read_data(data)
    figures: dict[str, object] = dict(zip(("psnr", "psnr_mean"), autoencoder_psnr(pipeline, pictures), strict=True))
    chosen = random.Random(0).sample(range(len(texts)), min(num, len(texts)))
    references = features(pictures[chosen])
    unit = distances(references, references).sum() / (len(chosen) * (len(chosen) - 1))
    captions, seeds, own = [texts[index] for index in chosen], list(range(len(chosen))), np.arange(len(chosen))
    first = None
    for scale in GUIDANCE_SCALES:
        drawn = draw(pipeline, captions, seeds, scale, steps)
        found = features(drawn)
        first = found if first is None else first
        moved = float(np.linalg.norm(found - first, axis=1).mean() / unit)
        ranks = top_ranks(found, references, own)
        figures[f"guidance {scale:g}"] = {**ranks, "moved": moved, "saturation": saturation(drawn)}
    figures["saturation of data"] = saturation(pictures[chosen])
    shipped = pipeline.scheduler
    for name, sampler in SAMPLERS.items():
        pipeline.scheduler = sampler.from_config(shipped.config)
        figures[name] = top_ranks(features(draw(pipeline, captions, seeds, 3.0, steps)), references, own)
    pipeline.scheduler = shipped
    variety = []
    for caption in GENERIC:
        found = features(draw(pipeline, [caption] * 8, list(range(8)), 3.0, steps))
        variety.append(distances(found, found).sum() / (8 * 7) / unit)
    figures["variety"] = dict(zip(GENERIC, map(float, variety), strict=True))
    figures["composition"] = colours_right(pipeline, steps)
    return figures


def colours_right(pipeline: StableDiffusionPipeline, steps: int) -> float:
    """Return the share of drawings in the colour that the prompt names."""
    drawn = draw(pipeline, COMPOSED, list(range(len(COMPOSED))), 5.0, steps)
    pairs = zip(COMPOSED, main_colours(drawn), strict=True)
    return float(np.mean([text.split()[0] == colour for text, colour in pairs]))


def main_colours(pictures: np.ndarray) -> list[str | None]:
    """Name the most frequent colour of each drawing [N H W 3]."""
    return [main_colour(as_image(picture)) for picture in pictures]


def as_image(picture: np.ndarray) -> Image.Image:
    """Return an image [H W 3] in [0, 1] as Pillow's."""
    return Image.fromarray((picture * 255).round().astype(np.uint8))


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
