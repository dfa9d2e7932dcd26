"""The report's previews: a row a prompt and seed, a column a step, the untouched model first."""

import base64
import io
import math
import re
from collections.abc import Sequence
from html import escape
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


def find_previews(folder: Path) -> Shots:
    """Returns the single pictures of a previews folder, ordered."""
    shots: Shots = {}
    for path in sorted(folder.glob("step_*_prompt*_seed*.png")):
        match = PREVIEW_NAME.fullmatch(path.name)
        if match:
            step, prompt, seed = map(int, match.groups())
            shots.setdefault((prompt, seed), {})[step] = path
    return dict(sorted(shots.items()))


def preview_table(shots: Shots, prompts: Sequence[str]) -> str:
    """Returns the table; of many steps or prompts a part, and a line that says so."""
    all_steps = sorted({step for by_step in shots.values() for step in by_step})
    steps, keys = spread(all_steps, MOST_COLUMNS), list(shots)[:MOST_ROWS]
    side = max(96, min(320, int(math.sqrt(MOST_BYTES / (len(keys) * len(steps) * JPEG_BYTES_PER_PIXEL)))))
    shown = max(140, min(256, PAGE_WIDTH // len(steps) - 12))
    heads = "".join(f"<th>{'untouched model' if step == 0 else f'step {step:,}'}</th>" for step in steps)
    lines = []
    for key in keys:
        prompt = str(prompts[key[0]]) if key[0] < len(prompts) else f"prompt {key[0]}"
        cells = "".join(f"<td>{picture(shots[key].get(step), side, shown)}</td>" for step in steps)
        lines.append(
            f'<tr><th class="prompt" colspan="{len(steps)}">{escape(prompt)} <small>seed {key[1]}</small></th></tr>'
            f"<tr>{cells}</tr>"
        )
    left_out = [
        f"{count} {what}"
        for count, what in ((len(all_steps) - len(steps), "steps"), (len(shots) - len(keys), "prompts and seeds"))
        if count
    ]
    more = f'<p class="note">Not shown: {" and ".join(left_out)}; see previews/.</p>' if left_out else ""
    return f'<div class="card wide"><table class="previews"><tr>{heads}</tr>{"".join(lines)}</table></div>{more}'


def picture(path: Path | None, side: int, shown: int) -> str:
    """Returns a small copy, at most `side` pixels, as an element that holds its own data and is `shown` units wide."""
    if path is None:
        return '<span class="note">none</span>'
    try:
        with Image.open(path) as original:
            small = original.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return '<span class="note">cannot be read</span>'
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=86)
    encoded = base64.b64encode(data.getvalue()).decode()
    height = round(shown * small.height / small.width)
    return f'<img width="{shown}" height="{height}" alt="" src="data:image/jpeg;base64,{encoded}">'


def spread(values: Sequence[int], most: int) -> list[int]:
    """Returns at most `most` of the values, evenly spread, the first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
