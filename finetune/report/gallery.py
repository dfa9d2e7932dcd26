"""The images of a report, in a table and in pairs. Rows are prompts and seeds, columns steps, the base model first."""

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from finetune.report.scores import Scored

MOST_COLUMNS = 8
MOST_ROWS = 24
MOST_PAIRS = 4
PAGE_WIDTH = 1100
MOST_BYTES = 3_000_000
JPEG_BYTES_PER_PIXEL = 0.35
PAIR_SIDE = 384
PREVIEW_NAME = re.compile(r"step_(\d+)_prompt(\d+)_seed(\d+)\.png")
SCORED_NAME = re.compile(r"prompt(\d+)_seed(\d+)\.png")
KINDS = {"user": "your prompt", "new_content": "new content", "held_out": "held-out caption", "neutral": "neutral"}
"""Kinds of prompts in the order in which pairs are chosen, and their names."""

Key = tuple[int, int]
"""Prompt number and seed."""
Shots = dict[Key, dict[int, Path]]
"""Key -> step -> file; step 0 is the base model."""


@dataclass(frozen=True)
class SmallPreview:
    """An image, scaled down."""

    data: str | None
    """JPEG in base64; None where the file cannot be read."""
    height: int = 0
    """In the units of the page."""


@dataclass(frozen=True)
class GalleryRow:
    """The images of one prompt and seed, one per column. An image is None where a column has none."""

    prompt: str
    kind: str
    seed: int
    images: list[SmallPreview | None]


@dataclass(frozen=True)
class Gallery:
    """The images in a page, and the numbers of those left out."""

    columns: list[str]
    rows: list[GalleryRow]
    width: int
    """Width of an image, in the units of the page."""
    left_out: list[str]
    chosen: int | None = None
    """Number of the column to look at first."""


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed, before and after."""

    prompt: str
    seed: int
    before: SmallPreview
    after: SmallPreview


@dataclass(frozen=True)
class Shown:
    """Images of a run with the texts of its prompts."""

    shots: Shots
    prompts: Sequence[str]
    kinds: Sequence[str] = field(default=())

    def prompt(self, number: int) -> str:
        """The text of a prompt, or its number."""
        return str(self.prompts[number]) if number < len(self.prompts) else f"prompt {number}"

    def kind(self, number: int) -> str:
        """The kind of a prompt of the grid; empty for others."""
        return self.kinds[number] if number < len(self.kinds) else ""


def find_previews(folder: Path) -> Shots:
    """Return the single images of a previews folder, ordered."""
    shots: Shots = {}
    for path in sorted(folder.glob("step_*_prompt*_seed*.png")):
        if match := PREVIEW_NAME.fullmatch(path.name):
            step, prompt, seed = map(int, match.groups())
            shots.setdefault((prompt, seed), {})[step] = path
    return dict(sorted(shots.items()))


def find_scored(scored: Scored) -> Shown:
    """Return the images that were scored. They are those of the base model and of each step."""
    shots: Shots = {}
    folders = [(0, scored.base_images), *((each.step, each.images) for each in scored.steps)]
    for step, folder in folders:
        if step is None or folder is None:
            continue
        for key, path in images_in(folder).items():
            shots.setdefault(key, {})[step] = path
    texts, kinds = [text for text, _ in scored.prompts], [kind for _, kind in scored.prompts]
    return Shown(dict(sorted(shots.items())), texts, kinds)


def images_in(folder: Path) -> dict[Key, Path]:
    """Return the images of a grid by prompt number and seed."""
    named = [(SCORED_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("prompt*_seed*.png"))]
    return {(int(match[1]), int(match[2])): path for match, path in named if match}


def by_text(images: Mapping[Key, Path], prompts: Sequence[object]) -> dict[tuple[str, int], Path]:
    """Name images by the text of their prompt. Those of unknown prompts are omitted."""
    return {(str(prompts[number]), seed): path for (number, seed), path in images.items() if number < len(prompts)}


def gallery(shown: Shown, chosen: int | None = None) -> Gallery | None:
    """Return rows of prompts and columns of steps, a part of many. It is None without images."""
    if not shown.shots:
        return None
    all_steps = sorted({step for by_step in shown.shots.values() for step in by_step})
    steps, keys = with_step(spread(all_steps, MOST_COLUMNS), chosen, all_steps), shown_keys(list(shown.shots))
    side, width = sizes(len(keys), len(steps))
    rows = [
        GalleryRow(
            shown.prompt(prompt),
            KINDS.get(shown.kind(prompt), ""),
            seed,
            [small_copy(shown.shots[prompt, seed].get(step), side, width) for step in steps],
        )
        for prompt, seed in keys
    ]
    left_out = [
        f"{count} {what}"
        for count, what in ((len(all_steps) - len(steps), "steps"), (len(shown.shots) - len(keys), "prompts and seeds"))
        if count
    ]
    columns = [f"step {step:,}" if step else "base model" for step in steps]
    return Gallery(columns, rows, width, left_out, steps.index(chosen) if chosen in steps else None)


def sizes(num_rows: int, num_columns: int) -> tuple[int, int]:
    """Choose the pixels of images and their width on the page."""
    side = int(math.sqrt(MOST_BYTES / (num_rows * num_columns * JPEG_BYTES_PER_PIXEL)))
    return max(96, min(320, side)), max(116, min(168, (PAGE_WIDTH - 40) // num_columns - 12))


def with_step(steps: list[int], chosen: int | None, known: Collection[int]) -> list[int]:
    """Put the chosen step in the place of the nearest one."""
    if chosen is None or chosen in steps or chosen not in known:
        return steps
    nearest = min(steps[1:-1], key=lambda step: abs(step - chosen))
    return sorted(chosen if step == nearest else step for step in steps)


def shown_keys(keys: Sequence[Key]) -> list[Key]:
    """Choose rows of many. Every prompt has one before any has two."""
    first = {}
    for prompt, seed in keys:
        first.setdefault(prompt, []).append(seed)
    ranked = sorted(keys, key=lambda key: (first[key[0]].index(key[1]), key))
    return sorted(ranked[:MOST_ROWS])


def pairs(shown: Shown, step: int | None, stronger: dict[Key, Path] | None = None) -> list[Pair]:
    """Return a few pairs of images, before and after a step. The kinds of prompts take turns. Files of
    `stronger` replace those of the step, where there are any."""
    after = {key: by_step[step] for key, by_step in shown.shots.items() if step is not None and step in by_step}
    after = {key: path for key, path in (stronger or after).items() if 0 in shown.shots.get(key, {})}
    found = []
    for key in turns(sorted(after), shown):
        before = small_copy(shown.shots[key][0], PAIR_SIDE, PAIR_SIDE)
        changed = small_copy(after[key], PAIR_SIDE, PAIR_SIDE)
        if before and changed and before.data and changed.data:
            found.append(Pair(shown.prompt(key[0]), key[1], before, changed))
        if len(found) == MOST_PAIRS:
            break
    return found


def turns(keys: Sequence[Key], shown: Shown) -> list[Key]:
    """Order keys by turns of the kinds of prompts. A prompt's second seed comes after all first ones."""
    order, met = list(KINDS), {}
    ranks = {}
    for prompt, seed in sorted(keys, key=lambda key: (key[1], key[0])):
        kind = shown.kind(prompt)
        met[kind] = met.get(kind, -1) + 1
        ranks[prompt, seed] = met[kind], order.index(kind) if kind in order else len(order)
    return sorted(keys, key=lambda key: ranks[key])


def small_copy(path: Path | None, side: int, width: int) -> SmallPreview | None:
    """Scale an image to at most `side` pixels, shown `width` units wide."""
    if path is None:
        return None
    try:
        with Image.open(path) as original:
            small = original.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow raises all of them
        return SmallPreview(data=None)
    return small_image(small, side, width)


def small_image(image: Image.Image, side: int, width: int) -> SmallPreview:
    """Scale an image that is open."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=86)
    return SmallPreview(base64.b64encode(data.getvalue()).decode(), round(width * image.height / image.width))


def spread(values: Sequence[int], most: int) -> list[int]:
    """Return at most `most` values, evenly spread, first and last included."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
