"""Draw the grid with a target's weights, and read the images again. Axes: P prompts, S seeds, h w pixels.

One batch is one prompt with all its seeds, drawn as a whole or not at all, so a continued evaluation has the same bits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from finetune.config.evaluate import DrawConfig
from finetune.config.loss import LossConfig
from finetune.evaluate.grid import Grid
from finetune.evaluate.target import Target
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.vae_upcast import without_fp16_overflow
from finetune.sampling.adapters import load_adapters, set_all_strengths
from finetune.sampling.drawing import usual_side
from finetune.sampling.metadata import OWN_CHUNK, save_png
from finetune.sampling.new_tokens import load_tokens


@dataclass(frozen=True)
class LoadedTarget:
    """A model with a target's weights, ready to draw."""

    family: ModelFamily
    components: Components
    pipeline: Any


@dataclass(frozen=True)
class DrawnImages:
    """The images of one target."""

    pixels: np.ndarray
    """[P S h w 3], whole numbers up to 255."""
    not_finite: np.ndarray
    """[P S], true where values were not numbers."""


def image_path(folder: Path, prompt: int, seed: int) -> Path:
    """Name the file of an image."""
    return folder / f"prompt{prompt:02d}_seed{seed}.png"


def keep_part(folder: Path, whole: Grid, part: Grid) -> None:
    """Keep the images of a part of a grid. They get the numbers of their prompts there."""
    numbers = {prompt: number for number, prompt in enumerate(part.prompts)}
    for number, prompt in enumerate(whole.prompts):  # the new numbers are never larger
        for seed in whole.seeds:
            path = image_path(folder, number, seed)
            if prompt in numbers and seed in part.seeds:
                path.replace(image_path(folder, numbers[prompt], seed))
            else:
                path.unlink(missing_ok=True)


def missing_prompts(folder: Path, grid: Grid) -> list[int]:
    """List the prompts of which an image is not there."""
    return [
        number
        for number in range(len(grid.prompts))
        if not all(image_path(folder, number, seed).is_file() for seed in grid.seeds)
    ]


def draw_grid(
    family: ModelFamily, source: ModelSource, target: Target, grid: Grid, config: DrawConfig, folder: Path
) -> int:
    """Draw what is missing of a grid into a folder. Returns the number of images drawn."""
    missing = missing_prompts(folder, grid)
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_target(family, source, target, config.strength, device_named(config.device))
    note = drawn_with(family, source, target, config)
    for number in missing:
        prompt = grid.prompts[number].text
        images = draw(loaded, prompt, grid.seeds, config)
        for seed, image in zip(grid.seeds, images, strict=True):
            save(image, image_path(folder, number, seed), {"prompt": prompt, "seed": seed, **note})
    return len(missing) * len(grid.seeds)


def drawn_with(family: ModelFamily, source: ModelSource, target: Target, config: DrawConfig) -> dict[str, object]:
    """List how a target's images are drawn, as `finetune generate` names it. The records show it."""
    return {
        "target": target.name,
        "negative_prompt": config.negative_prompt,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": family.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        "model": str(target.path) if target.kind == "pipeline" else source.location,
        "strength": config.strength if target.kind == "adapter" else None,
    }


def device_named(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Choose the device that an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("draw.device: got cuda, but torch finds no CUDA device. Use --draw.device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def draw(loaded: LoadedTarget, prompt: str, seeds: tuple[int, ...], config: DrawConfig) -> np.ndarray:
    """Draw a prompt with all seeds, [S h w 3] in [0, 1]."""
    family, components, side = loaded.family, loaded.components, side_of(loaded, config)
    with without_fp16_overflow(components.vae):
        arguments = family.pipeline_prompts(components, prompt, config.negative_prompt)
        return draw_seeds(family, loaded.pipeline, arguments, seeds, replace(config, size=side))


@torch.no_grad()
def draw_seeds(
    family: ModelFamily, pipeline: Any, arguments: Mapping[str, object], seeds: Sequence[int], config: DrawConfig
) -> np.ndarray:
    """Draw one encoded prompt with all seeds as a batch, [S h w 3] in [0, 1]. `arguments` are the pipeline's."""
    # Not every pipeline repeats the pooled embeddings too.
    repeated = {
        name: value.repeat_interleave(len(seeds), 0) if isinstance(value, Tensor) and "embeds" in name else value
        for name, value in arguments.items()
    }
    return pipeline(
        **repeated,
        width=config.size,
        height=config.size,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=family.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images


def load_target(
    family: ModelFamily, source: ModelSource, target: Target, strength: float, device: torch.device
) -> LoadedTarget:
    """Load a target's weights as a pipeline on a device."""
    loaded = load_pipeline(family, target.path) if target.kind == "pipeline" else family.load(source)
    components = replace(loaded, scheduler=family.sampling_scheduler(loaded.scheduler, LossConfig()))
    if target.kind == "adapter":
        add_adapters(family, components, target, strength)
    for part in (components.denoiser, components.vae, *components.text_encoders):
        part.requires_grad_(False).eval().to(device)
    return LoadedTarget(family, components, family.pipeline(components))


def load_pipeline(family: ModelFamily, folder: Path | None) -> Components:
    """Load a pipeline folder of the base model's family."""
    try:
        return family.load(ModelSource(str(folder)))
    except ValueError as error:
        raise ValueError(f"targets: {folder}: {str(error).removeprefix('model.source: ')}") from error


def side_of(loaded: LoadedTarget, config: DrawConfig) -> int:
    """Choose the side of images, or refuse the given one."""
    multiple = loaded.family.pixel_multiple(loaded.components.vae)
    if config.size is not None and config.size % multiple:
        raise ValueError(f"draw.size: got {config.size}, expected a multiple of {multiple} for this model.")
    return config.size or usual_side(loaded.family, loaded.components)


def add_adapters(family: ModelFamily, components: Components, target: Target, strength: float) -> None:
    """Load adapters and new tokens of any layout into the model. What does not fit it is a ValueError."""
    load_tokens(family, components, target.embeddings)
    warnings: list[str] = []
    adapters = load_adapters(family, components, [target.path] if target.path else [], warnings)
    if warnings:
        raise ValueError(f"targets: {target.name} is not read as a whole: {warnings[0]}")
    set_all_strengths(adapters, [strength] * len(adapters.adapters))


def save(image: np.ndarray, path: Path, note: dict[str, object]) -> None:
    """Write an image with what it is. Values that are not numbers are noted and become black."""
    is_finite = bool(np.isfinite(image).all())
    levels = np.nan_to_num(np.clip(image, 0, 1)) * 255
    texts = PngInfo()
    texts.add_text(OWN_CHUNK, json.dumps(note | {"is_finite": is_finite}))
    save_png(Image.fromarray(np.round(levels).astype(np.uint8)), path, texts)


ReadPrompt = tuple[np.ndarray, list[bool]]
"""The images [S h w 3] of a prompt; those that were not numbers are marked."""


def read_prompt(folder: Path, grid: Grid, number: int) -> ReadPrompt:
    """Read the images of a prompt."""
    pixels, marks = [], []
    for seed in grid.seeds:
        with Image.open(image_path(folder, number, seed)) as image:
            pixels.append(np.asarray(image.convert("RGB")))
            marks.append(not json.loads(image.info[OWN_CHUNK])["is_finite"])
    return np.stack(pixels), marks


def read_images(folder: Path, grid: Grid, known: Mapping[int, ReadPrompt] | None = None) -> DrawnImages:
    """Read all images of a grid, but those of known prompts."""
    known = known or {}
    read = [
        known[number] if number in known else read_prompt(folder, grid, number) for number in range(len(grid.prompts))
    ]
    pixels, marks = zip(*read, strict=True)
    return DrawnImages(np.stack(pixels), np.array(marks))
