"""Class images of the base model, drawn once (DreamBooth, arXiv 2208.12242).

They are for its prior preservation. An image is a function of the model's weights, the prompt, its number and the
sampling options. Images are drawn in fixed groups of prior.batch_size, each as a whole by one process: for any number
of processes and of existing images, image N is computed beside the same others, so it is the same file.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image

from finetune.batches.buckets import refuse_longer_sides
from finetune.batches.encoder import explaining_encoding, on_device
from finetune.batches.fill_caches import progress_bar, settings_text, text_fingerprint
from finetune.batches.preview_prompts import drawing_arguments, kept_prompt
from finetune.batches.store import cache_key
from finetune.config.dreambooth import PriorConfig
from finetune.files import aside, not_written, put_in_place, remove_left_behind, sync, write_atomically
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.parts import PARTS, ModelParts, for_drawing
from finetune.models.quantized.packed import pack_layers
from finetune.models.stored import cast_weight
from finetune.models.vae_upcast import without_fp16_overflow
from finetune.out_of_memory import explaining_out_of_memory
from finetune.processes.ranks import ranks
from finetune.randomness import generator
from finetune.run.device import COMPUTE_DTYPES
from finetune.run.weight_hashes import Hashes, hashed_parts

VERSION = 2
"""Raised whenever the same options give other images."""


def make_class_images(
    family: ModelFamily,
    source: ModelSource,
    config: PriorConfig,
    folder: Path,
    size: int,
    accelerator: Accelerator,
    *,
    offload: bool = False,
) -> Path:
    """Return the subfolder of `folder` with prior.num_pictures class images. They have `size` pixels; other images
    there are not used. All processes draw a part, so none waits long; existing images are not drawn again. With
    `offload` the denoiser's blocks wait in host memory, which changes no image."""
    parts, weights = hashed_parts(family, replace(source, as_stored=True), folder)
    components = parts.components
    if size % family.pixel_multiple(components.vae):
        raise ValueError(
            f"data.resolution: got {size}, expected a multiple of {family.pixel_multiple(components.vae)} for this VAE."
        )
    refuse_longer_sides([(size, size)], family.longest_side(components))
    if config.guidance_scale is None:
        config = replace(config, guidance_scale=family.guidance_scale)
    drawn_with = ("prompt", "num_inference_steps", "guidance_scale", "batch_size", "seed")
    settings: dict[str, object] = {name: getattr(config, name) for name in drawn_with}
    settings |= {"size": size, "precision": accelerator.mixed_precision}
    settings["model"] = model_fingerprint(components, weights)
    target = folder / "class_pictures" / cache_key(VERSION, json.dumps(settings, sort_keys=True))
    if accelerator.is_main_process:
        target.mkdir(parents=True, exist_ok=True)
        remove_left_behind(target)
        write_atomically(target / "made_with.json", json.dumps({"source": source.location} | settings, indent=1))
        refuse_full_disk(target, config.num_pictures - sum(1 for _ in target.glob("*.png")), size)
    ranks().exchange()  # not a collective: another process may take long to read the model
    # One list for all: another run may be filling the same folder, and each process would see it at another moment.
    (missing,) = broadcast_object_list([missing_groups(target, config)])
    if missing:
        accelerator.print(f'Making class images of "{config.prompt}" in {target}')
        with progress_bar("Making class images", len(missing) * config.batch_size, accelerator) as advance:
            if mine := missing[accelerator.process_index :: accelerator.num_processes]:
                draw_groups(parts, mine, config, target, size, accelerator, advance, offload=offload)
        ranks().exchange()
        if missing_groups(target, config):
            raise ValueError(f"cache.folder: class images are missing in {target}; is it on a disk that all share?")
    parts.drop(*PARTS)
    accelerator.free_memory()
    return target


def draw_groups(
    parts: ModelParts,
    groups: Sequence[int],
    config: PriorConfig,
    folder: Path,
    size: int,
    accelerator: Accelerator,
    advance: Callable[[int], None],
    *,
    offload: bool,
) -> None:
    """Write the images of the groups. The text encoders are gone before the denoiser is loaded."""
    family, device = parts.family, accelerator.device
    assert config.prompt is not None
    with explaining_encoding(), parts.lent("text_encoders"), on_device(parts.components.text_encoders, device):
        kept = kept_prompt(family, parts.components, config.prompt, "", accelerator, text_encoder_is_trained=False)
    parts.load("vae", "denoiser")
    components, dtype = for_drawing(parts.components, device), COMPUTE_DTYPES[accelerator.mixed_precision]
    if offload:
        pack_layers(components.denoiser, "none", double=False, device=device, dtype=dtype, offload=True)
    for parameter in components.denoiser.parameters():
        if parameter.is_floating_point():
            parameter.data = cast_weight(parameter.data, dtype, device)
    components.denoiser.to(dtype)
    pipeline, drawn_by = family.pipeline(components), [components.denoiser, components.vae]
    explained = explaining_out_of_memory(
        f"while {config.batch_size} class images of {size}x{size} were drawn",
        "Lower prior.batch_size or data.resolution, set model.offload true, or draw none with prior.kind prediction.",
    )
    with explained, on_device(drawn_by, device), accelerator.autocast(), without_fp16_overflow(components.vae):
        arguments = drawing_arguments(family, components, kept, device)
        for group in groups:
            for number, image in drawn_group(pipeline, arguments, group, config, size):
                if number < config.num_pictures:
                    save_image(image, image_path(folder, number))
            advance(config.batch_size * accelerator.num_processes)


def model_fingerprint(components: Components, weights: Hashes) -> str:
    """Hash all of the model that decides an image. `weights` has the fingerprints of its modules."""
    denoiser = *weights["denoiser"], settings_text(dict(components.denoiser.config))
    vae = *weights["vae"], settings_text(dict(components.vae.config))
    texts = text_fingerprint(components, weights["text_encoders"])
    scheduler = type(components.scheduler).__name__, settings_text(dict(components.scheduler.config))
    return cache_key(*denoiser, *vae, texts, *scheduler)


def image_path(folder: Path, number: int) -> Path:
    """Return the file of an image."""
    return folder / f"{number:06d}.png"


def missing_groups(folder: Path, config: PriorConfig) -> list[int]:
    """Return the groups of which an image is missing."""
    there = {path.name for path in folder.glob("*.png")}
    absent = [n for n in range(config.num_pictures) if image_path(folder, n).name not in there]
    return sorted({number // config.batch_size for number in absent})


@torch.no_grad()
def drawn_group(
    pipeline: Any, arguments: dict[str, Any], group: int, config: PriorConfig, size: int
) -> list[tuple[int, Image.Image]]:
    """Return the images of one group, with their numbers. The last group is whole, too."""
    numbers = range(group * config.batch_size, (group + 1) * config.batch_size)
    prompts = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    drawn = pipeline(
        **arguments | {name: value.repeat_interleave(len(numbers), 0) for name, value in prompts.items()},
        width=size,
        height=size,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        generator=[generator(config.seed, "class picture", number) for number in numbers],
        output_type="np",
    ).images  # [B h w 3] in 0 .. 1
    if not np.isfinite(drawn).all():
        raise ValueError(
            "prior.kind: the model drew class images that are not finite numbers. Use bf16 or no mixed precision, or "
            "another model."
        )
    return [(n, Image.fromarray((row * 255).round().astype(np.uint8))) for n, row in zip(numbers, drawn, strict=True)]


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image that is complete or absent."""
    temporary = aside(path)  # another run may write the same image
    try:
        image.save(temporary, format="PNG")
        sync(temporary)
        put_in_place(temporary, path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_full_disk(folder: Path, num_pictures: int, size: int) -> None:
    """Raise OSError where uncompressed images would not fit on the disk."""
    needed, free = max(num_pictures, 0) * size * size * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"prior.num_pictures: {num_pictures:,} class images take up to {needed:,} bytes, and {free:,} are "
            f"free in {folder}. Make room, lower prior.num_pictures, or put the cache elsewhere with --cache.folder."
        )
