"""The images of a command, before a model loads: options, names, identities."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from finetune.config.drawing.generate import GenerateConfig, split_strength
from finetune.config.drawing.grid import Axis
from finetune.config.drawing.options import PromptOptions
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.files import file_sha256
from finetune.models.family import ModelSource
from finetune.models.loading.file_stamps import file_stamps
from finetune.plurals import first_few

PEFT_FOLDER = "peft"
VERSION = 1
"""Raised whenever the same options give other images."""


@dataclass(frozen=True)
class Place:
    """Where an image is in the grids of its command."""

    page: str
    """Title of its grid."""
    row: str
    column: str


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
    place: Place


@dataclass(frozen=True)
class Ingredients:
    """The model, adapters and tokens of a command."""

    source: ModelSource
    lora: tuple[Path, ...]
    strengths: tuple[float, ...]
    embeddings: tuple[Path, ...]
    dtype: str


def planned_images(config: GenerateConfig, drawn_with: Ingredients) -> list[PlannedImage]:
    """List the images by prompt, then place in the grid, then seed."""
    shared, axes = ingredients_text(drawn_with), config.axes()
    images: list[PlannedImage] = []
    for number, options in enumerate(config.read_prompts(), 1):
        ranges = [range(len(axis.values)) if axis.values else range(1) for axis in reversed(axes)]
        for places in itertools.product(*ranges):
            cell = dict(zip(reversed(axes), places, strict=True))
            changed = {axis.field: axis.values[place] for axis, place in cell.items() if axis.values}
            for count in range(config.num_seeds):
                chosen = replace(options, **changed)  # pyright: ignore[reportArgumentType]  (each value was read)
                chosen = replace(chosen, seed=(chosen.seed or 0) + count)
                place = place_of(cell, number, chosen, num_seeds=config.num_seeds)
                images.append(planned_image(number, chosen, place, drawn_with, shared, config.output))
    return images


def place_of(cell: Mapping[Axis, int], number: int, options: PromptOptions, *, num_seeds: int) -> Place:
    """Return the place of an image. Without axes, prompts are rows and seeds are columns."""
    prompt, seed = f"{number}. {options.prompt}", f"seed {options.seed}"
    if not cell:
        return Place("", prompt, seed)
    labels = {axis.letter: prompt if axis.field == "prompt" else axis.label(place) for axis, place in cell.items()}
    title = [] if prompt in labels.values() else [prompt]
    title += [labels["z"]] if "z" in labels else []
    title += [seed] if num_seeds > 1 else []
    return Place("  |  ".join(title), labels.get("y", ""), labels["x"])


def planned_image(
    number: int, options: PromptOptions, place: Place, drawn_with: Ingredients, shared: str, folder: Path
) -> PlannedImage:
    """Return an image with its name. Names sort by prompt, and images that differ have different ones."""
    strengths = all_strengths(options, drawn_with.strengths)
    files = [file_sha256(Path(path)) for path in (options.image, options.mask_image) if path is not None]
    identity = asdict(replace(options, strength=strengths, image=None, mask_image=None))
    key = hashlib.sha256(json.dumps([VERSION, identity, files, shared], sort_keys=True).encode()).hexdigest()
    path = folder / f"{number:05d}_seed{options.seed}_{key[:8]}.png"
    return PlannedImage(number, options, strengths, key, path, place)


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


def ingredients(config: GenerateConfig, dtype: str) -> Ingredients:
    """Find the files of a command's adapters and tokens. Those of a run's export come together."""
    lora: list[Path] = []
    strengths: list[float] = []
    embeddings: list[Path] = []
    for given in config.lora:
        name, strength = split_strength(given)
        adapter, tokens = exported_files(Path(name))
        embeddings += tokens
        if adapter is not None:
            lora.append(adapter)
            strengths.append(strength)
    embeddings += [Path(name) for name in config.embedding]
    source = ModelSource.from_config(config.model)
    return Ingredients(source, tuple(lora), tuple(strengths), tuple(dict.fromkeys(embeddings)), dtype)


def exported_files(path: Path) -> tuple[Path | None, list[Path]]:
    """Return the adapter at a path, and the new tokens beside it. The path is a file, a folder of peft, a run or its
    export."""
    export = path / "export" if (path / "export").is_dir() else path
    if not export.is_dir() or any(export.glob("*/adapter_config.json")):
        return path, []
    files = sorted(file for file in export.glob("*.safetensors") if file.name != DIFFUSERS_FILE)
    candidates = files or [file for file in (export / DIFFUSERS_FILE, export / PEFT_FOLDER) if file.exists()]
    tokens = sorted((export / "embeddings").glob("*.safetensors"))
    if len(candidates) > 1 and files:
        raise ValueError(f"lora: {export} has {len(files)} files: {first_few([f.name for f in files])}. Name one.")
    if not candidates and not tokens:
        raise ValueError(f"lora: {export} has no adapter, expected a safetensors file. Name a file.")
    return (candidates[0] if candidates else None), tokens
