"""The usable strengths of a checkpoint's adapters. Torch-free."""

from collections.abc import Sequence
from typing import Any

from finetune.config.evaluate import LIKENESS, Goal, LimitsConfig
from finetune.evaluate.choice import Row, difference, excess_of, highest, value_of
from finetune.evaluate.results import rounded

LEAST_LIKENESS = 0.5
"""Share of the best likeness within limits that a usable strength has at least."""


def usable_strengths(rows: Sequence[Row], goal: Goal, limits: LimitsConfig) -> dict[str, Any] | None:
    """Find the best strength and the usable ones. None where nothing was scored.

    A strength is usable within the limits with at least half of the best likeness there, or where no difference shows
    to that, which may be below 0. The best has the highest likeness; where no difference shows, the nearest to 1, which
    needs no setting.
    """
    name = LIKENESS[goal]
    scored = sorted((row for row in rows if value_of(row, name) is not None), key=lambda row: row["strength"])
    if not scored:
        return None
    content: dict[str, Any] = {"rows": [{"strength": row["strength"], "scores": row["scores"]} for row in scored]}
    fitting = [row for row in scored if not excess_of(row, limits)]
    if not fitting:
        content |= {"best": None, "usable": None, "reason": "No strength stays within the limits."}
        return rounded(content)
    top = highest(fitting, name)
    equal = [row for row in fitting if difference(top, row, name).contains_zero]
    best = min(equal, key=lambda row: abs(row["strength"] - 1))
    least = LEAST_LIKENESS * (value_of(top, name) or 0.0)
    usable = [row["strength"] for row in fitting if row in equal or (value_of(row, name) or 0.0) >= least]
    low, high = min(usable), max(usable)
    reason = f"Use it at strength {best['strength']:g}; {low:g} to {high:g} are usable."
    if gaps := [row["strength"] for row in scored if low < row["strength"] < high and row["strength"] not in usable]:
        reason += f" Not within the limits: {', '.join(f'{each:g}' for each in gaps)}."
    content |= {"best": best["strength"], "usable": [low, high], "reason": reason}
    return rounded(content)
