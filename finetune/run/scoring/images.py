"""Images of a grid, drawn and described by all processes."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from finetune.batches.preview_prompts import drawing_arguments
from finetune.evaluate.drawing import ReadPrompt, draw_seeds, image_path, missing_prompts, read_prompt, save
from finetune.evaluate.grid import Grid
from finetune.evaluate.measure import Described, FeatureSet
from finetune.evaluate.running.desk import Desk
from finetune.files import writing
from finetune.models.family import Components
from finetune.models.parts import for_drawing
from finetune.models.prompts import Condition
from finetune.models.vae_upcast import without_fp16_overflow
from finetune.processes.ranks import ranks
from finetune.processes.signals import StopRequest
from finetune.session import Session


def draw_grid(
    session: Session,
    desk: Desk,
    grid: Grid,
    folder: Path,
    components: Components,
    prompts: Mapping[str, Condition],
    note: Mapping[str, object],
) -> bool:
    """Draw what is missing of a grid, a part on every process. Returns False where it was stopped.

    The parts in `components` are on the device, text encoders that do not train without weights. `note` is
    written into the images.
    """
    if ranks().rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    ranks().exchange()
    is_complete = True
    for number in ranks().share(missing_prompts(folder, grid)):
        if ranks().ends_early(session.stop.requested()):
            is_complete = False
            break
        text = grid.prompts[number].text
        images = draw_prompt(session, desk, components, prompts[text], grid.seeds)
        if not ranks().keeps_result:
            continue
        with writing(folder):
            for seed, image in zip(grid.seeds, images, strict=True):
                save(image, image_path(folder, number, seed), {"prompt": text, "seed": seed, **note})
    return not ranks().any(not is_complete)


def draw_prompt(
    session: Session, desk: Desk, components: Components, prompt: Condition, seeds: Sequence[int]
) -> np.ndarray:
    """Draw an encoded prompt with all seeds as one batch, [S h w 3] in [0, 1]."""
    run, family, device = session.run, session.run.family, session.run.accelerator.device
    components = for_drawing(components, device)
    with torch.no_grad(), run.accelerator.autocast(), without_fp16_overflow(components.vae):
        arguments = drawing_arguments(family, components, prompt, device)
        return draw_seeds(family, family.pipeline(components), arguments, seeds, desk.draw)


@dataclass(frozen=True)
class DescribedGrid:
    """The described images of a grid. Other processes than the main one have none."""

    prompts: list[Described]
    """Of all prompts."""
    images: Mapping[int, ReadPrompt]
    """Those that this process has read, by the number of their prompt."""


def describe_grid(stop: StopRequest, features: FeatureSet, grid: Grid, folder: Path) -> DescribedGrid | None:
    """Describe the images of a folder, a part on every process. The base model has its weights. Returns None where
    it was stopped."""
    own: dict[int, Described] = {}
    images: dict[int, ReadPrompt] = {}
    is_complete = True
    for number in ranks().share(range(len(grid.prompts))):
        if ranks().ends_early(stop.requested()):
            is_complete = False
            break
        read = read_prompt(folder, grid, number)
        own[number] = features.describe(grid, number, read[0])
        if ranks().rank == 0:
            images[number] = read
    if ranks().any(not is_complete):
        return None
    return DescribedGrid(gathered(own, folder), images)


def gathered(own: Mapping[int, Described], folder: Path) -> list[Described]:
    """Collect the descriptions of all processes on the first, through files."""
    if ranks().size == 1 or ranks().moves_together:
        return [own[number] for number in sorted(own)]
    path = folder / f".tmp-described-{ranks().rank}.npz"
    if ranks().rank > 0:
        with writing(folder):
            write_arrays(path, own)
    ranks().exchange()
    if ranks().rank > 0:
        ranks().exchange()
        return []
    found: dict[int, dict[str, np.ndarray]] = {number: dict(each) for number, each in own.items()}
    for other in range(1, ranks().size):
        file = folder / f".tmp-described-{other}.npz"
        with np.load(file) as arrays:
            for key, value in arrays.items():
                number, _, name = key.partition("/")
                found.setdefault(int(number), {})[name] = value
        with contextlib.suppress(OSError):
            file.unlink()
    ranks().exchange()
    return [found[number] for number in sorted(found)]


def write_arrays(path: Path, described: Mapping[int, Described]) -> None:
    """Write descriptions by the number of their prompts."""
    arrays = {f"{number}/{name}": value for number, each in described.items() for name, value in each.items()}
    np.savez(path, allow_pickle=False, **arrays)
