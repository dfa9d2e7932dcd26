"""Scores as text for a terminal. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluate.choice import Choice, named

WIDTH = 24
"""Characters of a column: a value with its interval."""


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Show scores as a table, and below it what they mean. Each target has a column."""
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    lines = [" " * 14 + "".join(named(row)[: WIDTH - 2].ljust(WIDTH) for row in rows)]
    notes: list[str] = []
    for name in names:
        found = [row["scores"].get(name, {}) for row in rows]
        lines.append(f"{name:<14}" + "".join(cell(each).ljust(WIDTH) for each in found))
        notes.append(f"  {name}: {found[0].get('meaning', '')}")
        reasons = dict.fromkeys(each["reason"] for each in found if "reason" in each)
        notes += [f"    not computed: {reason}." for reason in reasons]
    for row in rows:
        notes += copied_images(row)
    return "\n".join([line.rstrip() for line in lines] + ["", *notes])


def score_line(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Show the main scores of a step in one line."""
    found = [f"{name} {cell(row['scores'].get(name, {}))}" for name in names]
    return f"Scores of {named(row)}: {', '.join(found)}"


def cell(score: Mapping[str, Any]) -> str:
    """Show a value with its interval."""
    if score.get("value") is None:
        return "-"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def copied_images(row: Mapping[str, Any]) -> list[str]:
    """Name repeated training images, where more are near than by chance."""
    score = row["scores"].get("memorisation", {})
    detail = score.get("detail", {})
    if score.get("value") is None or score["low"] <= detail["false_alarms"]:
        return []
    found = list(dict.fromkeys(each["training_image"] for each in detail["copies"]))
    return [f"  {named(row)} repeats training images: {', '.join(found[:5])}" + (" ..." if len(found) > 5 else "")]


def choice_lines(choice: Choice | None) -> list[str]:
    """Say which checkpoint to use."""
    if choice is None:
        return ["No checkpoint is chosen: the likeness that the goal asks for could not be computed."]
    return [f"Use {named(choice.row)}: {choice.reason}", *(f"warning: {text}." for text in choice.warnings)]
