"""The checkpoint to use: the rule over rows of scores. Torch-free, and a function of its arguments alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.config.evaluate import LIKENESS, Goal, LimitsConfig
from finetune.evaluate.intervals import Interval, mean_interval
from finetune.evaluate.results import rounded

Row = Mapping[str, Any]
"""An object of scores.jsonl."""
RULE = (
    "highest {likeness} likeness among checkpoints whose adherence, drift, leak and memorisation stay within limits; "
)
RULE += "of those that none of the others is shown to exceed (no paired interval is above 0), the latest"
MUCH_DRIFT = 0.6
"""Drift from which a choice comes with a warning."""


@dataclass(frozen=True)
class Choice:
    """The checkpoint that the rule chooses, and why."""

    row: Row
    runner_up: Row | None
    difference: Interval | None
    """Likeness of the chosen one minus that of the runner-up, paired by prompt and seed."""
    reason: str
    warnings: tuple[str, ...]


def choose(rows: Sequence[Row], goal: Goal, limits: LimitsConfig) -> Choice | None:
    """Apply the rule. The result is None where no row has the goal's likeness. The order of rows has no influence.

    Few images do not show what a later checkpoint gains, but limits show what it loses. So the latest one is left only
    for a likeness that is shown to be higher. Targets without a step have no order; of those the highest is taken.
    """
    likeness = LIKENESS[goal]
    fitting = fitting_rows(rows, likeness, limits)
    if not fitting:
        return None
    best = highest(fitting, likeness)
    latest = next(row for row in reversed(fitting) if row is best or not is_exceeded(row, fitting, likeness))
    chosen = best if latest.get("step") is None else latest
    warnings: list[str] = []
    if over := excess_of(chosen, limits):
        warnings.append(f"no checkpoint stays within the limits; this one exceeds them least ({', '.join(over)})")
    elif (moved := drift_of(chosen)) is not None and moved > MUCH_DRIFT:
        warnings.append(
            f"prompts without the trigger changed too: drift {moved:.2f}, where 1 is as far as unrelated images. Where "
            f"they matter, use a lower strength, or set limits.drift to {MUCH_DRIFT} to leave such checkpoints out"
        )
    others = [row for row in fitting if row is not chosen]
    runner_up = max(others, key=lambda row: value_of(row, likeness) or 0.0, default=None)
    found = None if runner_up is None else difference(chosen, runner_up, likeness)
    scored = [(row, excess_of(row, limits)) for row in scored_rows(rows, likeness)]
    left_out = [f"{named(row)} ({', '.join(excess)})" for row, excess in scored if excess]
    reason = reason_for(chosen, best, runner_up, found, likeness) + later_than(chosen, fitting, likeness)
    if left_out and not over:
        reason += f" Beyond the limits: {'; '.join(left_out)}."
    return Choice(chosen, runner_up, found, reason, tuple(warnings))


def scored_rows(rows: Sequence[Row], likeness: str) -> list[Row]:
    """List the rows that have the likeness, in the order of steps."""
    return sorted((row for row in rows if value_of(row, likeness) is not None), key=place)


def fitting_rows(rows: Sequence[Row], likeness: str, limits: LimitsConfig) -> list[Row]:
    """List the rows within the limits. Where there is none, the one that exceeds them least."""
    scored = scored_rows(rows, likeness)
    fitting = [row for row in scored if not excess_of(row, limits)]
    return fitting or sorted(scored, key=lambda row: sum(excess_of(row, limits).values()))[:1]


def highest(fitting: Sequence[Row], likeness: str) -> Row:
    """Find the highest likeness."""
    return max(fitting, key=lambda row: value_of(row, likeness) or 0.0)


def is_exceeded(row: Row, rows: Sequence[Row], likeness: str) -> bool:
    """Tell if another row is shown to exceed this one.

    The highest one alone decides badly. It is also the luckiest, and its difference to the last one is uncertain.
    """
    return any(True for _ in exceeding(row, rows, likeness))


def exceeding(row: Row, rows: Sequence[Row], likeness: str) -> Iterator[tuple[Row, Interval]]:
    """Yield rows that are shown to exceed another, with the difference."""
    for other in rows:
        if other is not row and (by := difference(other, row, likeness)).low > 0:
            yield other, by


def reason_for(chosen: Row, best: Row, runner_up: Row | None, found: Interval | None, likeness: str) -> str:
    """Say in words why a checkpoint is chosen."""
    text = f"{named(chosen)} has {likeness} likeness {value_of(chosen, likeness):.3f}."
    if chosen is not best:
        text += f" No difference shows to {named(best)} ({value_of(best, likeness):.3f}), so the latest is taken."
    if runner_up is not None and found is not None and runner_up is not best:
        says = "no difference shows" if found.contains_zero else f"{found.low:+.3f} to {found.high:+.3f}"
        text += f" The runner-up is {named(runner_up)} ({value_of(runner_up, likeness):.3f}; {says})."
    return text


def later_than(chosen: Row, fitting: Sequence[Row], likeness: str) -> str:
    """Say why the last step is not the chosen one."""
    last = fitting[-1]
    found = [] if last is chosen or last.get("step") is None else list(exceeding(last, fitting, likeness))
    if not found:
        return ""
    other, by = max(found, key=lambda each: each[1].low)
    text = f" The last one, {named(last)} ({value_of(last, likeness):.3f}), is shown to be below {named(other)}"
    return f"{text} ({by.low:+.3f} to {by.high:+.3f})."


def best_content(choice: Choice, goal: Goal, limits: LimitsConfig) -> dict[str, Any]:
    """Give a choice the form of best.json."""
    found = choice.difference
    return rounded(
        {
            "step": choice.row.get("step"),
            "target": choice.row["target"],
            "goal": goal,
            "rule": RULE.format(likeness=LIKENESS[goal]),
            "limits": dict(vars(limits)),
            "reason": choice.reason,
            "runner_up": choice.runner_up
            and {"step": choice.runner_up.get("step"), "target": choice.runner_up["target"]},
            "difference": found and {"value": found.value, "low": found.low, "high": found.high},
            "no_difference_shows": bool(found and found.contains_zero),
            "warnings": list(choice.warnings),
        }
    )


def should_stop(rows: Sequence[Row], goal: Goal, limits: LimitsConfig, patience: int) -> bool:
    """Tell if so many later checkpoints were scored in vain."""
    first = plateau_start(rows, goal, limits)
    return first is not None and sum(place(row) > place(first) for row in rows) >= patience


def plateau_start(rows: Sequence[Row], goal: Goal, limits: LimitsConfig) -> Row | None:
    """Find the earliest checkpoint after which no improvement shows."""
    likeness = LIKENESS[goal]
    fitting = fitting_rows(rows, likeness, limits)
    best = highest(fitting, likeness) if fitting else None
    return next((row for row in fitting if row is best or not is_exceeded(row, fitting, likeness)), None)


def excess_of(row: Row, limits: LimitsConfig) -> dict[str, float]:
    """Name the limits that a row exceeds, with by how much. Scores that could not be computed exceed none."""
    found: dict[str, float] = {}
    adherence, base = value_of(row, "adherence"), detail_of(row, "adherence", "base")
    if adherence is not None and base is not None:
        found["adherence"] = base - adherence - limits.adherence
    if (moved := drift_of(row)) is not None:
        found["drift"] = moved - limits.drift
    if (leak := value_of(row, "leak")) is not None:
        found["leak"] = leak - limits.leak
    if (rate := value_of(row, "memorisation")) is not None:
        found["memorisation"] = rate - (detail_of(row, "memorisation", "false_alarms") or 0.0) - limits.memorisation
    return {name: excess for name, excess in found.items() if excess > 0}


def drift_of(row: Row) -> float | None:
    """Read the drift. Without a trigger every prompt takes the style, and there is none."""
    return value_of(row, "drift") if row.get("has_trigger", True) else None


def difference(first: Row, second: Row, name: str) -> Interval:
    """Bound the difference of a score, paired by prompt and seed. Without equal cells it is that of separate ones."""
    cells = [np.array(row["scores"][name].get("cells", [])) for row in (first, second)]
    if cells[0].size and cells[0].shape == cells[1].shape:
        return mean_interval(cells[0] - cells[1])
    one, other = (row["scores"][name] for row in (first, second))
    return Interval(one["value"] - other["value"], one["low"] - other["high"], one["high"] - other["low"])


def value_of(row: Row, name: str) -> float | None:
    """Read a score, or None where it could not be computed."""
    return row["scores"].get(name, {}).get("value")


def detail_of(row: Row, name: str, key: str) -> float | None:
    """Read a further figure of a score."""
    return row["scores"].get(name, {}).get("detail", {}).get(key)


def place(row: Row) -> tuple[int, int, str]:
    """Order rows by step; those without one come last, by name."""
    step = row.get("step")
    return (0, step, row["target"]) if step is not None else (1, 0, row["target"])


def named(row: Row) -> str:
    """Name a row as its reader knows it."""
    return f"step {row['step']}" if row.get("step") is not None else str(row["target"])
