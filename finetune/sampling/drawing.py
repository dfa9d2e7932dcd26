"""Images drawn in batches by a family's pipeline, on one device."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from PIL import Image

from finetune.batches.encoder import explaining_encoding, on_device
from finetune.config.drawing.options import PromptOptions
from finetune.data.images.decode import open_rgb, resize_and_crop
from finetune.models.family import Components, ModelFamily
from finetune.models.parts import drop_weights, for_drawing
from finetune.models.samplers import with_sampler
from finetune.models.vae_upcast import without_fp16_overflow
from finetune.out_of_memory import explaining_out_of_memory
from finetune.sampling.adapters import Adapters, set_strengths
from finetune.sampling.planned import PlannedImage

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMAGE_STRENGTH, MASKED_STRENGTH = 0.8, 1.0
USUAL_SIDE = 1024
"""Of models whose denoiser names no size."""

Encoded = dict[str, Any]
"""A pipeline's arguments for one prompt; tensors are on the CPU."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A model with its adapters, ready to draw."""

    family: ModelFamily
    components: Components
    adapters: Adapters
    device: torch.device
    dtype: torch.dtype


def usual_side(family: ModelFamily, components: Components) -> int:
    """Get the usual width and height of a model's images."""
    latents = components.denoiser.config.get("sample_size")
    return latents * family.pixels_per_latent(components.vae) if isinstance(latents, int) else USUAL_SIDE


def resolved(loaded: LoadedPipeline, options: PromptOptions) -> PromptOptions:
    """Fill in what prompt and command leave to the model. Raises ValueError for what does not fit it."""
    side = usual_side(loaded.family, loaded.components)
    width, height = options.width or side, options.height or side
    multiple = loaded.family.pixel_multiple(loaded.components.vae)
    if options.image is not None and options.width is None and options.height is None:
        width, height = (max(multiple, side // multiple * multiple) for side in open_image(options.image).size)
    strength = options.image_strength
    if options.image is not None and strength is None:
        strength = IMAGE_STRENGTH if options.mask_image is None else MASKED_STRENGTH
    guidance = loaded.family.guidance_scale if options.guidance_scale is None else options.guidance_scale
    return replace(options, width=width, height=height, image_strength=strength, guidance_scale=guidance)


def problems(loaded: LoadedPipeline, options: PromptOptions) -> list[str]:
    """List what does not fit the model, of resolved options."""
    found: list[str] = []
    multiple = loaded.family.pixel_multiple(loaded.components.vae)
    longest = loaded.family.longest_side(loaded.components)
    for name in ("width", "height"):
        value = vars(options)[name]
        if value % multiple:
            found.append(f"{name}: got {value}, expected a multiple of {multiple} for this model.")
        elif longest is not None and value > longest:
            found.append(f"{name}: got {value}, expected at most {longest}, the positions of this denoiser.")
    if options.negative_prompt and not loaded.family.knows_negative_prompts:
        found.append(f"negative_prompt: got one, but {loaded.family.title} is guided without. Remove it.")
    try:
        with_sampler(loaded.family, loaded.components.scheduler, options.sampler)
    except ValueError as error:
        found.append(str(error))
    if options.image is not None:
        fills = loaded.family.filling_channels(loaded.components) > 0
        if fills and options.mask_image is None:
            found.append("image: got one without a mask, but this is an inpainting model. Give mask_image too.")
        kind = AutoPipelineForImage2Image if options.mask_image is None else AutoPipelineForInpainting
        try:
            kind.from_pipe(loaded.family.pipeline(loaded.components))
        except ValueError:
            found.append(f"image: diffusers has no pipeline for it with {loaded.family.title}. Remove it.")
    return found


def encode_prompts(loaded: LoadedPipeline, images: Sequence[PlannedImage]) -> dict[tuple[Any, ...], Encoded]:
    """Encode all prompts with their strengths. Then the text encoders lose their weights."""
    encoders, found = loaded.components.text_encoders, dict[tuple[Any, ...], Encoded]()
    wanted = dict.fromkeys(map(text_key, images))
    with torch.no_grad(), explaining_encoding(), on_device(encoders, loaded.device), computing(loaded):
        for strengths, prompt, negative in sorted(wanted, key=lambda key: key[0]):
            set_strengths(loaded.adapters, strengths, "text_encoders")
            given = loaded.family.pipeline_prompts(loaded.components, prompt, negative)
            found[strengths, prompt, negative] = {
                name: value.to("cpu") if isinstance(value, torch.Tensor) else value for name, value in given.items()
            }
    for encoder in encoders:
        drop_weights(encoder)
    return found


def text_key(image: PlannedImage) -> tuple[tuple[float, ...], str, str]:
    """Return what the encoded prompt of an image depends on."""
    return image.strengths, image.options.prompt, image.options.negative_prompt or ""


@contextmanager
def computing(loaded: LoadedPipeline) -> Iterator[None]:
    """Compute in the chosen number format. A VAE that would overflow computes in float32."""
    kind, dtype = loaded.device.type, loaded.dtype
    with torch.autocast(kind, dtype, enabled=dtype != torch.float32), without_fp16_overflow(loaded.components.vae):
        yield


def batches(
    images: Sequence[PlannedImage], encoded: dict[tuple[Any, ...], Encoded], size: int
) -> list[list[PlannedImage]]:
    """Group up to `size` images of equal options and prompt lengths. Strengths change least often."""
    groups: dict[tuple[Any, ...], list[PlannedImage]] = {}
    for image in images:
        options = replace(image.options, prompt="", negative_prompt=None, seed=None, image=None, mask_image=None)
        shapes = tuple(value.shape for value in encoded[text_key(image)].values() if isinstance(value, torch.Tensor))
        kinds = image.options.image is not None, image.options.mask_image is not None
        groups.setdefault((image.strengths, options, shapes, kinds), []).append(image)
    ordered = sorted(groups.items(), key=lambda item: item[0][0])  # a stable sort
    return [group[start : start + size] for _, group in ordered for start in range(0, len(group), size)]


@torch.no_grad()
def draw(loaded: LoadedPipeline, batch: Sequence[PlannedImage], encoded: Sequence[Encoded]) -> list[Image.Image]:
    """Draw a batch of equal options. Each image has a generator of its own on the CPU."""
    family, options = loaded.family, batch[0].options
    components = replace(
        for_drawing(loaded.components, loaded.device),
        scheduler=with_sampler(family, loaded.components.scheduler, options.sampler),
    )
    set_strengths(loaded.adapters, batch[0].strengths, "denoiser")
    pipeline, arguments = pipeline_for(family, components, batch)
    prompts = {name: value for name, value in encoded[0].items() if isinstance(value, torch.Tensor)}
    joined = {name: torch.cat([each[name] for each in encoded]).to(loaded.device) for name in prompts}
    settings: dict[str, Any] = {
        **encoded[0],
        **joined,
        **arguments,
        "width": options.width,
        "height": options.height,
        "num_inference_steps": options.num_inference_steps,
        "guidance_scale": options.guidance_scale,
        "generator": [torch.Generator().manual_seed(image.options.seed or 0) for image in batch],
        "output_type": "np",
    }
    accepted = inspect.signature(type(pipeline).__call__).parameters
    explained = explaining_out_of_memory(
        f"while {len(batch)} images of {options.width}x{options.height} were drawn", "Lower batch_size or the size."
    )
    with explained, computing(loaded):
        drawn = pipeline(**{name: value for name, value in settings.items() if name in accepted}).images
    if not np.isfinite(drawn).all():
        raise ValueError("dtype: the model drew images that are not finite numbers. Use --dtype fp32 or bf16.")
    return [Image.fromarray((row * 255).round().astype(np.uint8)) for row in drawn]


def pipeline_for(
    family: ModelFamily, components: Components, batch: Sequence[PlannedImage]
) -> tuple[Any, dict[str, object]]:
    """Return the pipeline for a batch, and its further arguments."""
    pipeline, options = family.pipeline(components), batch[0].options
    if options.image is None:
        return pipeline, {}
    size = options.width or 0, options.height or 0
    arguments: dict[str, object] = {
        "image": [cut_to(open_image(image.options.image), size) for image in batch],
        "strength": options.image_strength,
    }
    if options.mask_image is None:
        made: Any = AutoPipelineForImage2Image.from_pipe(pipeline)
    else:
        made = AutoPipelineForInpainting.from_pipe(pipeline)
        arguments["mask_image"] = [cut_to(open_image(image.options.mask_image), size).convert("L") for image in batch]
    made.set_progress_bar_config(disable=True)
    return made, arguments


def open_image(path: str | None) -> Image.Image:
    """Read an image file. Raises ValueError where it is not one."""
    assert path is not None
    try:
        return open_rgb(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"image: {path}: {error}") from error


def cut_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image to cover a size, and cut its middle."""
    if image.size == size:
        return image
    return Image.fromarray(resize_and_crop(image, *size, left=0.5, top=0.5, flip=False))
