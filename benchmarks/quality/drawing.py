"""Images [N H W 3] in [0, 1] from a pipeline, and through its autoencoder."""

from collections.abc import Sequence
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

from tools.colours import main_colour

SAMPLERS: dict[str, Any] = {
    "DDIM": DDIMScheduler,
    "PNDM": PNDMScheduler,
    "Euler": EulerDiscreteScheduler,
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "DDPM": DDPMScheduler,
}
BATCH = 50


def load(model: Path) -> StableDiffusionPipeline:
    """Return the pipeline in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], scale: float, steps: int, **options: Any
) -> np.ndarray:
    """Draw each prompt with its seed.

    Options are those of the pipeline's call; a list of them has one value per prompt.
    """
    drawn = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        chosen = {name: value[part] if isinstance(value, list) else value for name, value in options.items()}
        result = pipeline(
            list(prompts[part]), guidance_scale=scale, num_inference_steps=steps, generator=generators,
            output_type="np", **chosen,
        )  # fmt: skip
        drawn.append(result.images)
    return np.concatenate(drawn)


@torch.no_grad()
def decoded(pipeline: StableDiffusionPipeline, images: np.ndarray) -> np.ndarray:
    """Encode images and decode the posterior's mode."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).float() * 2 - 1
        latents = pipeline.vae.encode(pixels).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
        parts.append(pipeline.vae.decode(latents).sample.clamp(-1, 1).permute(0, 2, 3, 1).numpy() / 2 + 0.5)
    return np.concatenate(parts)


def as_image(image: np.ndarray) -> Image.Image:
    """Return an image [H W 3] in [0, 1] as Pillow's."""
    return Image.fromarray((image * 255).round().astype(np.uint8))


def main_colours(images: np.ndarray) -> list[str | None]:
    """Name the most frequent colour of each drawing."""
    return [main_colour(as_image(image)) for image in images]
