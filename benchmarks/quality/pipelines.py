"""Samplers, guidance, negative prompts, image-to-image and inpainting of a model."""

from typing import Any

import numpy as np
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from quality.concepts import Figures, Trial
from quality.drawing import SAMPLERS, as_image, decoded, draw
from quality.features import moved, ranks, saturation, shapes, shares, unit_distance
from quality.icons import read_images, training_icons

GUIDANCE_SCALES = (1.0, 3.0, 5.0, 7.0)
STRENGTHS = (0.2, 0.5, 1.0)


def samplers(trial: Trial) -> Figures:
    """Yield figures of samplers, guidance and the other pipelines."""
    icons = training_icons(trial.icons, trial.num // 2)
    true = read_images(icons)
    texts = [f"{icon.concept}, {icon.style}" for icon in icons[: max(trial.num // 4, 2)]]
    seeds, references, shipped = range(len(texts)), shapes(true), trial.pipeline.scheduler
    for name, sampler in SAMPLERS.items():
        trial.pipeline.scheduler = sampler.from_config(shipped.config)
        drawn = draw(trial.pipeline, texts, seeds, trial.guidance, trial.steps)
        yield f"captions, {name}", shares(ranks(shapes(drawn), references))
    trial.pipeline.scheduler = shipped
    unit = unit_distance(true)
    first = None
    for scale in GUIDANCE_SCALES:
        drawn = draw(trial.pipeline, texts, seeds, scale, trial.steps)
        first = drawn if first is None else first
        figures = {"moved": moved(drawn, first) / unit, "saturation": saturation(drawn)}
        yield f"captions, guidance {scale:g}", shares(ranks(shapes(drawn), references)) | figures
    yield "captions, icons", {"saturation": saturation(true)}
    half = len(texts) // 2
    yield from others(trial, texts[:half], texts[half : 2 * half], true[:half], unit)


def others(trial: Trial, texts: list[str], asked: list[str], start: np.ndarray, unit: float) -> Figures:
    """Yield figures of negative prompts, image-to-image and inpainting.

    The prompts `asked` are drawn against `texts`, from images [N H W 3], and into the right half of these.
    """
    seeds, images = range(len(texts)), [as_image(image) for image in start]
    plain = trial.draw(asked)
    against = draw(trial.pipeline, asked, seeds, trial.guidance, trial.steps, negative_prompt=texts)
    yield "negative prompt", {"moved": moved(against, plain) / unit}
    parts: dict[str, Any] = dict(trial.pipeline.components)
    again = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    for strength in STRENGTHS:
        drawn = draw(again, asked, seeds, trial.guidance, trial.steps, image=images, strength=strength)
        figures = {"from the image": moved(drawn, start) / unit, "from the drawing": moved(drawn, plain) / unit}
        yield f"image to image, strength {strength:g}", figures
    inpaint = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    inpaint.set_progress_bar_config(disable=True)
    right = np.zeros((64, 64), np.uint8)
    right[:, 32:] = 255
    options = {"image": images, "mask_image": [Image.fromarray(right)] * len(images), "height": 64, "width": 64}
    drawn = draw(inpaint, asked, seeds, trial.guidance, trial.steps, **options)
    for label, columns in (("outside", slice(0, 28)), ("inside", slice(36, 64))):
        change = np.abs(drawn - start)[:, :, columns].mean()
        through = np.abs(decoded(trial.pipeline, start) - start)[:, :, columns].mean()
        yield f"inpainting, {label} the mask", {"change": float(change), "of the autoencoder": float(through)}
