"""The images of a command, before a model loads: options, names, identities."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from finetune.config.drawing.generate import GenerateConfig, split_strength
from finetune.config.drawing.options import PromptOptions
from finetune.files import file_sha256
from finetune.models.family import ModelSource
from finetune.models.loading.file_stamps import file_stamps

VERSION = 1
"""Raised whenever the same options give other images."""


@dataclass(frozen=True)
class PlannedImage:
    """One image, and where it goes."""

    prompt_number: int
    """Counts the command's prompts from 1."""
    options: PromptOptions
    """With a seed."""
    strengths: tuple[float, ...]
    """Of all adapters."""
    key: str
    """Hash of all that decides the image."""
    path: Path


@dataclass(frozen=True)
class Ingredients:
    """The model, adapters and tokens of a command."""

    source: ModelSource
    lora: tuple[Path, ...]
    strengths: tuple[float, ...]
    embeddings: tuple[Path, ...]
    dtype: str


def planned_images(config: GenerateConfig, drawn_with: Ingredients) -> list[PlannedImage]:
    """List the images by prompt, then seed."""
    shared = ingredients_text(drawn_with)
    images: list[PlannedImage] = []
    for number, options in enumerate(config.read_prompts(), 1):
        for count in range(config.num_seeds):
            chosen = replace(options, seed=(options.seed or 0) + count)
            images.append(planned_image(number, chosen, drawn_with, shared, config.output))
    return images


def planned_image(
    number: int, options: PromptOptions, drawn_with: Ingredients, shared: str, folder: Path
) -> PlannedImage:
    """Return an image with its name. Names sort by prompt, and images that differ have different ones."""
    strengths = all_strengths(options, drawn_with.strengths)
    files = [file_sha256(Path(path)) for path in (options.image, options.mask_image) if path is not None]
    identity = asdict(replace(options, strength=strengths, image=None, mask_image=None))
    text = json.dumps([VERSION, identity, files, shared], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return PlannedImage(number, options, strengths, key, folder / f"{number:05d}_seed{options.seed}_{key[:8]}.png")


def all_strengths(options: PromptOptions, given: Sequence[float]) -> tuple[float, ...]:
    """Return one strength per adapter. The prompt's win, its last one counting for the adapters that follow."""
    if options.strength is None:
        return tuple(given)
    return tuple(options.strength[min(place, len(options.strength) - 1)] for place in range(len(given)))


def ingredients_text(drawn_with: Ingredients) -> str:
    """Describe model, adapters and tokens. Adapters count by their bytes, the model by sizes and times of its files."""
    stamps = [(Path(name).name, size, time) for name, size, time, _ in file_stamps(drawn_with.source)]
    hashes = [content_hash(path) for path in (*drawn_with.lora, *drawn_with.embeddings)]
    return json.dumps([repr(drawn_with.source), stamps, hashes, drawn_with.dtype])


def content_hash(path: Path) -> str:
    """Hash a file, or the files of a folder."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [f"{file.relative_to(path).as_posix()} {file_sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def adapters_given(config: GenerateConfig) -> tuple[tuple[Path, ...], tuple[float, ...]]:
    """Return the files of adapters with their strengths."""
    split = [split_strength(given) for given in config.lora]
    return tuple(Path(path) for path, _ in split), tuple(strength for _, strength in split)
