"""Axes of a grid of images, such as x=strength:0.5,0.75,1; torch-free."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from finetune.config.drawing.options import FIELDS
from finetune.config.parse.convert import suggestion

LETTERS = "xyz"
AXIS = re.compile(r"([a-zA-Z])=(\w+)(?::(.*))?", re.DOTALL)
MOST_VALUES = 100
SHORT = {"num_inference_steps": "steps", "guidance_scale": "guidance", "negative_prompt": "negative:"}
"""Fields in labels, which have little room."""


@dataclass(frozen=True)
class Axis:
    """A direction of a grid: columns (x), rows (y) or pages (z)."""

    letter: str
    field: str
    """A field of PromptOptions; "prompt" stands for the command's own prompts."""
    values: tuple[object, ...]

    def label(self, place: int) -> str:
        """Return the text beside a row or column."""
        value = self.values[place]
        parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        shown = ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
        return f"{SHORT.get(self.field, self.field.replace('_', ' '))} {shown}"


def read_axes(given: Sequence[str], num_seeds: int) -> tuple[list[Axis], list[str]]:
    """Read the axes of a grid, x first. Also return what is wrong."""
    axes: dict[str, Axis] = {}
    found: list[str] = []
    for text in given:
        axis = read_axis(text)
        if isinstance(axis, str):
            found.append(f"grid: {text}: {axis}")
        elif axis.letter in axes or axis.field in [other.field for other in axes.values()]:
            found.append(f"grid: {text}: {axis.letter} or {axis.field} is given twice. Keep one.")
        else:
            axes[axis.letter] = axis
    if given and not found and "x" not in axes:
        found.append("grid: expected an x axis, such as x=seed:0,1,2.")
    if num_seeds > 1 and any(axis.field == "seed" for axis in axes.values()):
        found.append("grid: has seeds of its own. Omit num_seeds.")
    return [axes[letter] for letter in sorted(axes)], found


def read_axis(text: str) -> Axis | str:
    """Read one axis, or return what is wrong with it. Values are apart by commas, or by | where one is there."""
    match = AXIS.fullmatch(text.strip())
    if match is None or match[1].lower() not in LETTERS:
        return "expected x, y or z with a field and its values, such as x=strength:0.5,1."
    letter, field, listed = match[1].lower(), match[2], match[3]
    if field == "prompt":
        return Axis(letter, field, ()) if listed is None else "prompt takes no values: it means those of prompts."
    if field not in FIELDS:
        return f"no such field.{suggestion(field, FIELDS)} Use prompt, {', '.join(FIELDS)}."
    parts = [part.strip() for part in (listed or "").split("|" if "|" in (listed or "") else ",")]
    values: list[object] = []
    for part in parts:
        try:
            values.append(FIELDS[field].read(part))
        except (ValueError, TypeError):
            expected = FIELDS[field].expected
            return f"got {part or 'nothing'}, expected {expected if isinstance(expected, str) else expected(part)}."
    if len(set(values)) < len(values) or len(values) > MOST_VALUES:
        return f"expected different values, at most {MOST_VALUES}."
    return Axis(letter, field, tuple(values))
