"""The report's previews: rows of prompts and seeds, columns of steps. The base model is the first column."""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MOST_COLUMNS = 8
MOST_ROWS = 24
PAGE_WIDTH = 1100
MOST_BYTES = 3_000_000
JPEG_BYTES_PER_PIXEL = 0.35
PREVIEW_NAME = re.compile(r"step_(\d+)_prompt(\d+)_seed(\d+)\.png")

Shots = dict[tuple[int, int], dict[int, Path]]
"""(prompt number, seed) -> step -> file."""


@dataclass(frozen=True)
class SmallPreview:
    """A preview, scaled down."""

    data: str | None
    """JPEG in base64; None where the file cannot be read."""
    height: int = 0
    """In the units of the page."""


@dataclass(frozen=True)
class PreviewTableRow:
    """The previews of one prompt and seed, one per step. An image is None where a step has none."""

    prompt: str
    seed: int
    images: list[SmallPreview | None]


@dataclass(frozen=True)
class PreviewTable:
    """The previews in a report, and the numbers of those left out."""

    steps: list[int]
    rows: list[PreviewTableRow]
    width: int
    """Width of an image, in the units of the page."""
    left_out: list[str]


def find_previews(folder: Path) -> Shots:
    """Return the single images of a previews folder, ordered."""
    shots: Shots = {}
    for path in sorted(folder.glob("step_*_prompt*_seed*.png")):
        if match := PREVIEW_NAME.fullmatch(path.name):
            step, prompt, seed = map(int, match.groups())
            shots.setdefault((prompt, seed), {})[step] = path
    return dict(sorted(shots.items()))


def preview_table(shots: Shots, prompts: Sequence[str]) -> PreviewTable | None:
    """Return the table, a part of many steps or prompts. It is None without previews."""
    if not shots:
        return None
    all_steps = sorted({step for by_step in shots.values() for step in by_step})
    steps, keys = spread(all_steps, MOST_COLUMNS), list(shots)[:MOST_ROWS]
    side = max(96, min(320, int(math.sqrt(MOST_BYTES / (len(keys) * len(steps) * JPEG_BYTES_PER_PIXEL)))))
    width = max(140, min(256, PAGE_WIDTH // len(steps) - 12))
    rows = [
        PreviewTableRow(
            prompt=str(prompts[prompt]) if prompt < len(prompts) else f"prompt {prompt}",
            seed=seed,
            images=[small_copy(shots[prompt, seed].get(step), side, width) for step in steps],
        )
        for prompt, seed in keys
    ]
    left_out = [
        f"{count} {what}"
        for count, what in ((len(all_steps) - len(steps), "steps"), (len(shots) - len(keys), "prompts and seeds"))
        if count
    ]
    return PreviewTable(steps, rows, width, left_out)


def small_copy(path: Path | None, side: int, width: int) -> SmallPreview | None:
    """Scale an image to at most `side` pixels, shown `width` units wide."""
    if path is None:
        return None
    try:
        with Image.open(path) as original:
            small = original.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return SmallPreview(data=None)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=86)
    return SmallPreview(base64.b64encode(data.getvalue()).decode(), round(width * small.height / small.width))


def spread(values: Sequence[int], most: int) -> list[int]:
    """Return at most `most` values, evenly spread, first and last included."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
