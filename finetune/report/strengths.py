"""The images of a run at several strengths of its adapters."""

import contextlib
from pathlib import Path

from finetune.report.gallery import (
    KINDS,
    MOST_PAIRS,
    Gallery,
    GalleryRow,
    Key,
    Shots,
    Shown,
    gallery,
    images_in,
    sizes,
    small_copy,
    turns,
)
from finetune.report.scores import Scored

FOLDER = "strength_"
"""Folders within that of a scored step begin so."""


def step_galleries(scored: Scored, shown: Shown, chosen: int | None) -> list[tuple[str, Gallery]]:
    """Return a gallery of steps for each strength, the strongest first."""
    every = {1.0: shown.shots} | weaker_shots(scored, shown)
    made = [(value, gallery(Shown(every[value], shown.prompts, shown.kinds), chosen)) for value in every]
    found = [(value, each) for value, each in made if each is not None]
    return [(f"{value:g}", each) for value, each in sorted(found, key=lambda pair: -pair[0])]


def weaker_shots(scored: Scored, shown: Shown) -> dict[float, Shots]:
    """Find the images of scored steps at other strengths. The base model's are beside them."""
    drawn: dict[float, Shots] = {}
    for each in scored.steps:
        if each.step is None or each.images is None:
            continue
        for value, folder in strength_folders(each.images).items():
            for key, path in images_in(folder).items():
                base = {0: shown.shots[key][0]} if 0 in shown.shots.get(key, {}) else {}
                drawn.setdefault(value, {}).setdefault(key, base)[each.step] = path
    return {value: dict(sorted(shots.items())) for value, shots in drawn.items()}


def strength_folders(images: Path) -> dict[float, Path]:
    """Find the folders of a step's images at other strengths."""
    found: dict[float, Path] = {}
    for path in sorted(images.glob(f"{FOLDER}*")):
        with contextlib.suppress(ValueError):
            found[float(path.name.removeprefix(FOLDER))] = path
    return found


def strength_gallery(scored: Scored, shown: Shown) -> Gallery | None:
    """Return a few prompts at each strength of the chosen step. It is None where none were drawn."""
    choice = scored.choice
    if choice is None or choice.step is None or len(choice.strengths) < 2:
        return None
    drawn = {each.value: images_in(each.images) if each.images else {} for each in choice.strengths}
    steps = {key: by_step[choice.step] for key, by_step in shown.shots.items() if choice.step in by_step}
    drawn[1.0] = drawn.get(1.0) or steps
    values = [value for value in sorted(drawn) if drawn[value]]
    keys = [key for key in turns(list(steps), shown) if any(key in drawn[value] for value in values if value != 1)]
    if not keys:
        return None
    side, width = sizes(MOST_PAIRS, len(values) + 1)
    rows = []
    for key in sorted(keys[:MOST_PAIRS]):
        paths = [shown.shots[key].get(0), *(drawn[value].get(key) for value in values)]
        images = [small_copy(path, side, width) for path in paths]
        rows.append(GalleryRow(shown.prompt(key[0]), KINDS.get(shown.kind(key[0]), ""), key[1], images))
    chosen = values.index(choice.strength) + 1 if choice.strength in values else None
    return Gallery(["base model", *(f"strength {value:g}" for value in values)], rows, width, [], chosen)


def stronger(scored: Scored) -> dict[Key, Path]:
    """Return the chosen step's images at the chosen strength. There are none where those were not drawn."""
    choice = scored.choice
    if choice is None or choice.strength in (None, 1.0):
        return {}
    folder = next((each.images for each in choice.strengths if each.value == choice.strength and each.images), None)
    return images_in(folder) if folder else {}
