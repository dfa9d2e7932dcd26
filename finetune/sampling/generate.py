"""`finetune generate`: plan, load, draw what is missing, list everything."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune.config.checks import prompts_of
from finetune.config.drawing.generate import GenerateConfig
from finetune.config.drawing.samplers import SAMPLERS, sampler_named
from finetune.files import remove_left_behind, write_atomically, writing
from finetune.json_text import parse_json
from finetune.models import family_named, refuse_unknown_family
from finetune.models.loading.components import find_family
from finetune.models.parts import PARTS, load_sequentially
from finetune.models.samplers import with_sampler
from finetune.plurals import plural
from finetune.prompt_syntax import prompt_warnings
from finetune.sampling.adapters import load_adapters, set_strengths
from finetune.sampling.drawing import (
    DTYPES,
    LoadedPipeline,
    batches,
    draw,
    encode_prompts,
    problems,
    resolved,
    text_key,
)
from finetune.sampling.grids import write_grids
from finetune.sampling.metadata import Drawn, a1111_hash, png_texts, read_own, save_png
from finetune.sampling.new_tokens import load_tokens
from finetune.sampling.planned import Ingredients, PlannedImage, ingredients, planned_images

LIST = "generated.jsonl"
Say = Callable[[str], None]


def generate(config: GenerateConfig, say: Say = print) -> list[Path]:
    """Draw the missing images of a command; return the paths of all."""
    for warning in prompt_warnings(prompts_of(config)):
        say(f"warning: {warning}")
    refuse_unknown_family(config.model.family)
    device, dtype = chosen_device(config)
    drawn_with = ingredients(config, dtype)
    images = planned_images(config, drawn_with)
    with writing(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
    remove_left_behind(config.output)
    listed(config.output)  # refuses one that it could not add to
    drawn = {image.path.name: own for image in images if (own := settings_there(image)) is not None}
    missing = [image for image in images if image.path.name not in drawn]
    if missing:
        say(f"Drawing {plural(len(missing), 'image')} of {len(images):,} on {device} in {dtype}.")
        drawn |= draw_missing(config, drawn_with, missing, device, say)
    else:
        say(f"All {plural(len(images), 'image')} are there already.")
    write_list(config.output, drawn)
    for grid in write_grids(config.output, images):
        say(f"Grid: {grid}")
    say(f"Images: {config.output}")
    return [image.path for image in images]


def chosen_device(config: GenerateConfig) -> tuple[torch.device, str]:
    """Choose the device, and the name of the number format."""
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(config.device or found)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device: got {config.device}, which this machine does not have ({reason}). Use cpu."
        ) from error
    if config.dtype == "fp16" and device.type == "cpu":
        raise ValueError("dtype: got fp16 on a CPU, expected fp32 or bf16.")
    if config.dtype != "auto":
        return device, config.dtype
    return device, "bf16" if device.type == "cuda" else "fp32"


def settings_there(image: PlannedImage) -> dict[str, Any] | None:
    """Read the settings of an image drawn before. Raises ValueError where another file has its name."""
    if not os.path.lexists(image.path):
        return None
    found = read_own(image.path)
    if found is None or found.get("key") != image.key:
        raise ValueError(f"output: {image.path} is there and not from this command. Move it, or choose another folder.")
    return found


def draw_missing(
    config: GenerateConfig,
    drawn_with: Ingredients,
    missing: Sequence[PlannedImage],
    device: torch.device,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Load the model, draw and write. Returns each image's settings by file name."""
    loaded, words = load(config, drawn_with, device, say)
    missing = [replace(image, options=resolved(loaded, image.options)) for image in missing]
    wrong = [f"prompt {image.prompt_number}: {line}" for image in missing for line in problems(loaded, image.options)]
    if wrong:
        raise ValueError("\n".join(dict.fromkeys(wrong)))
    for text in cut_prompts(loaded, missing):
        say(f"warning: {text}")
    adapters = [{"name": path.name, "hash": a1111_hash(path)} for path in drawn_with.lora]
    tokens = [{"name": Path(file).name, "word": word, "hash": a1111_hash(Path(file))} for file, word in words.items()]
    encoded = encode_prompts(loaded, missing)
    set_strengths(loaded.adapters, missing[0].strengths, "denoiser")
    loaded.components.denoiser.to(device)
    loaded.components.vae.to(device)
    found: dict[str, dict[str, Any]] = {}
    for batch in batches(missing, encoded, config.batch_size):
        for image, pixels in zip(batch, draw(loaded, batch, [encoded[text_key(i)] for i in batch]), strict=True):
            own = [{**each, "strength": strength} for each, strength in zip(adapters, image.strengths, strict=True)]
            drawn = settings_of(loaded, image, config.model.source, own, tokens, drawn_with.dtype)
            save_png(pixels, image.path, png_texts(drawn))
            found[image.path.name] = drawn.as_json()
        say(f"  {len(found)} of {len(missing)}: {batch[-1].path.name}")
    return found


def load(
    config: GenerateConfig, drawn_with: Ingredients, device: torch.device, say: Say
) -> tuple[LoadedPipeline, dict[str, str]]:
    """Load the model with adapters and tokens. Also return the word of each token's file."""
    from finetune.config.loss import LossConfig

    source = replace(drawn_with.source, as_stored=True)
    family = family_named(find_family(source, config.model.family))
    components = load_sequentially(family, source, keep=PARTS).components
    components = replace(components, scheduler=family.sampling_scheduler(components.scheduler, LossConfig()))
    words = load_tokens(family, components, drawn_with.embeddings)
    for file, word in words.items():
        say(f"{Path(file).name}: write {word} in prompts.")
    warnings: list[str] = []
    adapters = load_adapters(family, components, drawn_with.lora, warnings)
    for warning in warnings:
        say(f"warning: {warning}")
    loaded = LoadedPipeline(family, components, adapters, device, DTYPES[drawn_with.dtype])
    components.denoiser.to(loaded.dtype)
    return loaded, words


def cut_prompts(loaded: LoadedPipeline, images: Sequence[PlannedImage]) -> list[str]:
    """Return a sentence for each prompt that is cut."""
    texts = [text for image in images for text in (image.options.prompt, image.options.negative_prompt or "")]
    cut = loaded.family.cut_captions(loaded.components.tokenizers, list(dict.fromkeys(texts)))
    limit = loaded.family.prompt_length(loaded.components.tokenizers)
    return [f'prompts: "{text[:60]}..." is longer than the {limit} tokens that are read. Shorten it.' for text in cut]


def settings_of(
    loaded: LoadedPipeline,
    image: PlannedImage,
    model: str,
    adapters: Sequence[Mapping[str, object]],
    tokens: Sequence[Mapping[str, object]],
    dtype: str,
) -> Drawn:
    """Return all settings of an image, for its metadata."""
    options = image.options
    scheduler = with_sampler(loaded.family, loaded.components.scheduler, options.sampler)
    kind = type(scheduler).__name__
    assert options.width and options.height and options.guidance_scale is not None
    return Drawn(
        prompt=options.prompt,
        negative_prompt=options.negative_prompt or "",
        width=options.width,
        height=options.height,
        seed=options.seed or 0,
        num_inference_steps=options.num_inference_steps or 0,
        guidance_scale=options.guidance_scale,
        sampler=sampler_named(options.sampler).title if options.sampler else title_of(kind),
        scheduler=kind,
        model=model,
        adapters=adapters,
        embeddings=tokens,
        key=image.key,
        image=options.image,
        mask_image=options.mask_image,
        image_strength=options.image_strength,
        device=loaded.device.type,
        dtype=dtype,
    )


def title_of(kind: str) -> str:
    """Return A1111's name of a scheduler class with its usual options."""
    return next((sampler.title for sampler in SAMPLERS if sampler.scheduler == kind), kind)


def write_list(folder: Path, drawn: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the images to generated.jsonl, one object per image. Those of other commands stay."""
    lines = listed(folder)
    for name, settings in drawn.items():
        lines[name] = json.dumps({"file_name": name, **settings})
    write_atomically(folder / LIST, "".join(f"{lines[name]}\n" for name in sorted(lines)))


def listed(folder: Path) -> dict[str, str]:
    """Return the lines of generated.jsonl by image. Raises ValueError for another program's file."""
    lines: dict[str, str] = {}
    path = folder / LIST
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines[parse_json(line)["file_name"]] = line
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"output: {path} is not a list of this program. Move it, or use another folder."
            ) from error
    return lines
