"""Rows of metrics.jsonl and of other files, also of a killed run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.json_text import parse_json
from finetune.report.charts import Point

Row = dict[str, float | None]


def read_rows(file: Path) -> tuple[list[Row], int]:
    """Return the rows by step, and the number of lines without one. Numbers that are not finite are None."""
    rows, num_broken = [], 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []:
        try:
            values = parse_json(line)
        except ValueError:
            values = None
        step = whole(values.get("step")) if isinstance(values, dict) else None
        if step is None or values is None:
            num_broken += 1
            continue
        rows.append({key: finite(value) for key, value in values.items()} | {"step": step})
    return sorted(rows, key=lambda row: row["step"] or 0), num_broken


def finite(value: object) -> float | None:
    """Return a number; None if it is missing or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a file; empty where there is none."""
    try:
        value = parse_json(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_objects(file: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects in a file's lines, and the number of others."""
    found, num_broken = [], 0
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            value = parse_json(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            num_broken += 1
    return found, num_broken


def whole(value: object) -> int | None:
    """Return a step; None if it is not a number."""
    number = finite(value)
    return None if number is None else int(number)


def items(value: object) -> list[Any]:
    """Return a list as it is, and nothing for anything else."""
    return value if isinstance(value, list) else []


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list."""
    return [each for each in items(value) if isinstance(each, dict)]


def series(rows: Sequence[Row], key: str) -> tuple[Point, ...]:
    """Return the points of the rows that hold the key."""
    return tuple((row["step"] or 0.0, row[key]) for row in rows if key in row)


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """Return the finite values of a key."""
    return [value for _, value in series(rows, key) if value is not None]


def base_loss(rows: Sequence[Row]) -> float | None:
    """Return the base model's validation loss."""
    at_start = numbers([row for row in rows if row["step"] == 0], "validation/loss")
    return next(iter(at_start + numbers(rows, "validation/base_loss")), None)
