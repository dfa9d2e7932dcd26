"""Folders with images of this program. They say how each was drawn. Torch-free."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from finetune.config.drawing.options import PromptOptions, read_notation
from finetune.config.parse.command_line import read_yaml
from finetune.records.image_file import as_whole
from finetune.records.scored import STEP, STRENGTH, ScoredFolder, Scores
from finetune.report.gallery import find_previews
from finetune.report.rows import finite, items, read_json, read_objects

SCORED_NAME = re.compile(r"prompt(\d{1,9})_seed(\d{1,18})\.png")
BASE_NAME = re.compile(r"base(-[0-9a-f-]+)?")
BASE_MODEL = "base model"
LIST = "generated.jsonl"
"""What `finetune generate` lists its images in."""


@dataclass(frozen=True)
class ListedImage:
    """An image file, and what its folder says of it. None is what the folder does not know."""

    path: Path
    run: str
    kind: Literal["preview", "scored", "generated"]
    step: int | None = None
    target: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    strength: float | None = None
    base_model: str | None = None
    scores: Scores = field(default_factory=dict)


def image_folders(parent: Path, run: Path | None = None) -> list[tuple[str, Path]]:
    """List the folders with images in `parent` and one level below. With `run` only its own."""
    found: list[tuple[str, Path]] = []
    for child in [parent / run.name] if run else subfolders(parent):
        inner = [(f"{child.name}/{each.name}", each) for each in subfolders(child)]
        found += [(name, folder) for name, folder in [(child.name, child), *inner] if has_images(folder)]
    return found


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder by name. Hidden and unreadable ones are omitted."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def has_images(folder: Path) -> bool:
    """Recognize the folder of a run, an evaluation or `finetune generate`."""
    is_run = any((folder / name).is_dir() for name in ("previews", "scored"))
    return is_run or any((folder / name).is_file() for name in ("grid.json", LIST))


def listed_images(name: str, folder: Path) -> Iterator[ListedImage]:
    """Yield the images of a folder, with what it says of them."""
    scored, options = ScoredFolder.read(folder), run_options(folder)
    yield from listed_previews(name, folder, scored, options)
    yield from listed_scored(name, folder, scored, options)
    for row in read_objects(folder / LIST)[0]:
        file_name = row.get("file_name")
        if isinstance(file_name, str) and Path(file_name).name == file_name and (folder / file_name).is_file():
            yield ListedImage(folder / file_name, name, "generated")


def run_options(folder: Path) -> dict[str, str]:
    """Read a run's options of one value, as text. Those that are none are omitted."""
    found = read_yaml(folder / "config.yaml")[0]
    return {key: texts[0] for key, texts in found.items() if len(texts) == 1 and texts[0] != "None"}


def listed_previews(name: str, folder: Path, scored: ScoredFolder, options: Mapping[str, str]) -> Iterator[ListedImage]:
    """Yield the previews of a run."""
    lines = [str(each) for each in items(read_json(folder / "previews" / "previews.json").get("prompts"))]
    for (number, seed), by_step in find_previews(folder / "previews").items():
        drawn = preview_options(lines[number] if number < len(lines) else "", options)
        for step, path in by_step.items():
            yield ListedImage(
                path,
                name,
                "preview",
                step=as_whole(step),
                target=f"step {step}" if step else BASE_MODEL,
                prompt=drawn.prompt,
                negative_prompt=drawn.negative_prompt,
                seed=as_whole(seed),
                num_inference_steps=drawn.num_inference_steps,
                guidance_scale=drawn.guidance_scale,
                sampler=drawn.sampler,
                base_model=options.get("model.source"),
                scores=scored.scores(scored.row_of_step(step)),
            )


def preview_options(line: str, options: Mapping[str, str]) -> PromptOptions:
    """Read a preview's prompt in the notation. What it does not say is in the run's options."""
    given = read_notation(line)[0]
    shared = PromptOptions(
        given.prompt,
        negative_prompt=options.get("preview.negative_prompt"),
        num_inference_steps=read_whole(options.get("preview.num_inference_steps", "")),
        guidance_scale=read_number(options.get("preview.guidance_scale", "")),
    )
    return replace(shared, **{name: value for name, value in vars(given).items() if value is not None})


def listed_scored(name: str, folder: Path, scored: ScoredFolder, options: Mapping[str, str]) -> Iterator[ListedImage]:
    """Yield the images that were drawn to be scored. A run draws them as its previews."""
    shared = preview_options("", options)
    for place in scored_places(folder):
        row = scored.row_of(place.folder.relative_to(folder).as_posix())
        if place.strength is not None and place.step is not None:
            row = scored.row_of_strength(place.step, place.strength)
        step = place.step if row is None or "step" not in row else as_whole(row["step"])
        given = row.get("target") if row else None
        target = given if isinstance(given, str) else None if step is None else f"step {step}" if step else BASE_MODEL
        for path in sorted(place.folder.glob("prompt*_seed*.png")):
            if not (match := SCORED_NAME.fullmatch(path.name)):
                continue
            number, seed = int(match[1]), int(match[2])
            yield ListedImage(
                path,
                name,
                "scored",
                step=step,
                target=target,
                prompt=scored.prompts[number] if number < len(scored.prompts) else None,
                negative_prompt=shared.negative_prompt,
                seed=seed,
                num_inference_steps=shared.num_inference_steps,
                guidance_scale=shared.guidance_scale,
                strength=place.strength,
                base_model=options.get("model.source"),
                scores=scored.scores(row, number, seed),
            )


@dataclass(frozen=True)
class ScoredPlace:
    """A folder with images by one checkpoint at one strength."""

    folder: Path
    step: int | None
    strength: float | None


def scored_places(folder: Path) -> Iterator[ScoredPlace]:
    """Yield the folders of scored images, and what their names say. Step 0 is the base model."""
    inside = subfolders(folder / "scored")
    if (folder / "grid.json").is_file():  # other folders called images are datasets
        inside += subfolders(folder / "images")
    for place in inside:
        at_strengths = [(each, STRENGTH.fullmatch(each.name)) for each in subfolders(place)]
        for each, found in [(place, None), *at_strengths]:
            of_step = STEP.match(place.name) or STEP.match(each.name)
            step = int(of_step[1]) if of_step else 0 if BASE_NAME.fullmatch(each.name) else None
            yield ScoredPlace(each, step, float(found[1]) if found else None)


def read_whole(text: str) -> int | None:
    """Read a whole number from text; None for anything else."""
    return int(text) if re.fullmatch(r"\d{1,15}", text) else None


def read_number(text: str) -> float | None:
    """Read a finite number from text; None for anything else."""
    try:
        return finite(float(text))
    except ValueError:
        return None
