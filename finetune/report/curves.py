"""Headline figures and curves over the steps of a run."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from finetune.report.charts import NUM_COLORS, Chart, Level, Line, Mark, Point, line_chart, number, smoothed
from finetune.report.rows import Row, base_loss, numbers, series
from finetune.report.scores import Scored
from finetune.report.validation import lowest, relative_lines

SHARES = {"data_wait": "of the time waited for data", "mfu": "of the peak FLOP/s"}
"""Shares of metrics.jsonl beside the speed."""


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    name: str
    value: str
    note: str
    is_better: bool = False


def tiles(rows: Sequence[Row]) -> list[Tile]:
    """Return the headline figures."""
    found: list[Tile] = []
    if rows:
        seen = numbers(rows, "images_seen")
        found.append(Tile("steps", f"{rows[-1]['step']:,.0f}", f"{seen[-1]:,.0f} images seen" if seen else ""))
    if losses := [value for _, value in smoothed(series(rows, "loss")) if value is not None]:
        found.append(Tile("final loss", number(losses[-1]), "running mean"))
    base = base_loss(rows)
    if numbers(rows, "validation/loss"):
        found.append(validation_tile(rows, base))
    if speeds := numbers(rows, "images_per_second"):
        medians = {what: statistics.median(values) for key, what in SHARES.items() if (values := numbers(rows, key))}
        shares = [f"{share:.0%} {what}" for what, share in medians.items()]
        found.append(Tile("images per second", number(statistics.median(speeds), 3), ", ".join(["median", *shares])))
    if elapsed := numbers(rows, "elapsed_seconds"):
        found.append(Tile("time in steps", duration(elapsed[-1]), "without previews and validation"))
    return found


def validation_tile(rows: Sequence[Row], base: float | None) -> Tile:
    """Say where the validation loss was lowest. A loss that rises again is not shown as a success."""
    low = lowest(rows)
    assert low is not None
    if low.has_risen:
        after = f"{number(low.last, 3)} at step {low.last_step:,} ({low.rise:+.0%})"
        note = after if base is None else f"{after}; base model {number(base, 3)}"
        return Tile("lowest validation loss", f"{number(low.loss, 3)} at step {low.step:,}", note)
    if base is None or not base:
        return Tile("validation loss", number(low.last, 3), "")
    text = f"{number(base, 3)} → {number(low.last, 3)}"
    return Tile("validation loss", text, f"{low.last / base - 1:+.1%} against the base model", low.last < base)


def duration(seconds: float) -> str:
    """Return 42 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def name_of_rate(key: str) -> str:
    """Return the name for a learning rate's key, such as lr_text_encoder. The key lr belongs to the other weights."""
    return key.removeprefix("lr_").replace("_", " ") if key != "lr" else "the rest"


def charts(rows: Sequence[Row], chosen: int | None = None) -> list[Markup]:
    """Return the curves. The chosen step is marked in those of losses."""
    loss, grad_norm, speed = (series(rows, key) for key in ("loss", "grad_norm", "images_per_second"))
    rates = sorted({key for row in rows for key in row if key == "lr" or key.startswith("lr_")})
    marks = () if chosen is None else (Mark(f"step {chosen:,} is chosen", chosen),)
    drawn = [
        Chart("Loss", "loss", raw_and_smooth(loss), marks=marks, width=1150),
        validation_chart(rows, marks),
        Chart("Validation loss by timestep", "share of the first", relative_lines(rows), marks=marks),
        Chart(
            "Learning rate",
            "rate",
            tuple(
                Line(name_of_rate(key) if len(rates) > 1 else "", series(rows, key), color=color)
                for key, color in zip(rates, itertools.cycle((1, 3, 2)))
            ),
        ),
        Chart("Gradient norm", "norm", raw_and_smooth(grad_norm)),
        Chart("Throughput", "images/s", raw_and_smooth(speed, color=3)),
    ]
    return [Markup(line_chart(chart)) for chart in drawn]


def validation_chart(rows: Sequence[Row], marks: tuple[Mark, ...]) -> Chart:
    """Draw the validation loss from the base model's, with its minimum marked."""
    base, low = base_loss(rows), lowest(rows)
    level = Level(f"base model {number(base)}", base) if base is not None else None
    if low is not None:
        marks = (*marks, Mark(f"lowest at step {low.step:,}", low.step, color=4))
    line = Line("held-out images", with_base(rows), "dots", color=2)
    return Chart("Validation loss", "loss", (line,), level, marks)


def with_base(rows: Sequence[Row]) -> tuple[Point, ...]:
    """Return the validation losses, begun with that of the base model."""
    points, base = series(rows, "validation/loss"), base_loss(rows)
    return ((0.0, base), *points) if base is not None and points and points[0][0] > 0 else points


def raw_and_smooth(points: tuple[Point, ...], color: int = 1) -> tuple[Line, ...]:
    """Return the raw line behind its running mean."""
    return Line("raw", points, "faint", color), Line("running mean", smoothed(points), color=color)


def score_charts(scored: Scored) -> list[tuple[Markup, str]]:
    """Return a chart per score with the intervals, and its meaning. One step alone makes no chart."""
    steps = [each for each in scored.steps if each.step is not None]
    if len(steps) < 2:
        return []
    chosen = scored.choice.step if scored.choice else None
    marks = () if chosen is None else (Mark(f"step {chosen:,} is chosen", chosen),)
    found = []
    for place, name in enumerate(scored.names):
        have = [(each.step or 0, each.scores[name]) for each in steps if name in each.scores]
        points = tuple((float(step), score.value) for step, score in have if score.value is not None)
        spread = tuple(
            (float(step), score.low, score.high)
            for step, score in have
            if score.value is not None and score.low is not None and score.high is not None
        )
        levels = [level for _, score in have if (level := score.level) is not None]
        level = Level(f"{levels[0][0]} {number(levels[0][1], 3)}", levels[0][1]) if levels else None
        line = Line("", points, "dots", place % NUM_COLORS + 1, spread)
        if drawn := line_chart(Chart(name, "", (line,), level, marks)):
            found.append((Markup(drawn), have[0][1].meaning))
    return found
