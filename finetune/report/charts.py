"""Line charts as inline SVG, with round ticks and values on hover. Colours come from the page's style sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

Point = tuple[float, float | None]
"""Step and value; None breaks the line where the value was not finite."""

HEIGHT = 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 20, 26
MOST_DRAWN = 600
MOST_HOVERS = 160
NUM_COLORS = 8


@dataclass(frozen=True)
class Line:
    """One line of a chart. `faint` draws raw points behind a smooth line, `dots` marks every point."""

    name: str
    points: tuple[Point, ...]
    style: Literal["plain", "faint", "dots", "dashed"] = "plain"
    color: int = 1
    """Of the page's NUM_COLORS."""
    spread: tuple[tuple[float, float, float], ...] = ()
    """Intervals around points: step, low, high."""


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line."""

    name: str
    value: float


@dataclass(frozen=True)
class Mark:
    """A step that is spoken of, as an upright line."""

    name: str
    step: float
    color: int = 3


@dataclass(frozen=True)
class Chart:
    """Lines over steps. `width` is in the page's units, in which a letter is 11 high."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    level: Level | None = None
    marks: tuple[Mark, ...] = ()
    width: int = 560


def smoothed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the exponential running mean over about a twentieth of the points. Missing values count for nothing."""
    keep = 1 - 1 / max(1.0, len(points) / 20)
    total = weight = 0.0
    means: list[Point] = []
    for step, value in points:
        if value is not None:
            total, weight = total * keep + value, weight * keep + 1.0
            means.append((step, total / weight))
    return tuple(means)


def line_chart(chart: Chart) -> str:
    """Return a `figure` element, or "" without finite values."""
    values = [value for line in chart.lines for _, value in line.points if value is not None]
    if not values:
        return ""
    steps = [step for line in chart.lines for step, _ in line.points] + [mark.step for mark in chart.marks]
    first, last = _span(steps, 0.0)
    plot = _Plot(chart.width, (0.0 if 0 < first < last / 10 else first, last), _value_span(chart, values))
    parts = list(_axes(plot, chart.unit))
    if chart.level:
        parts.append(f'<path class="level" d="M{LEFT} {plot.y(chart.level.value)}H{plot.width - RIGHT}"/>')
    for mark in chart.marks:
        parts.append(f'<path class="mark c{mark.color}" d="M{plot.x(mark.step)} {TOP}V{HEIGHT - BOTTOM}"/>')
    for line in chart.lines:
        parts += _drawn(plot, line)
    parts += _hovers(plot, chart)
    legend = "".join(
        f'<span class="key c{line.color} {line.style}">{escape(line.name)}</span>' for line in chart.lines if line.name
    )
    for mark in chart.marks:
        legend += f'<span class="key mark c{mark.color}">{escape(mark.name)}</span>'
    if chart.level:
        legend += f'<span class="key level">{escape(chart.level.name)}</span>'
    return (
        f'<figure class="chart"><figcaption><b>{escape(chart.title)}</b>'
        f'<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {chart.width} {HEIGHT}" role="img" aria-label="{escape(chart.title)} over steps">'
        f"{''.join(parts)}</svg></figure>"
    )


@dataclass(frozen=True)
class _Plot:
    """Positions of steps and values on the drawing."""

    width: int
    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        low, high = self.steps
        return round(LEFT + (step - low) / (high - low) * (self.width - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.values
        inside = min(max(value, low), high)
        return round(HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _value_span(chart: Chart, values: Sequence[float]) -> tuple[float, float]:
    """Return the span of values, without single raw outliers. Those are drawn at the edge."""
    shown = [value for line in chart.lines if line.style != "faint" for _, value in line.points if value is not None]
    faint = [line for line in chart.lines if line.style == "faint"]
    raw = sorted(value for line in faint for _, value in line.points if value is not None)
    shown += [value for line in chart.lines for _, *both in line.spread for value in both]
    shown += raw[len(raw) // 100 : len(raw) - len(raw) // 100]
    if chart.level:
        shown.append(chart.level.value)
    low, high = _span(shown or values, 0.06)
    return (max(low, 0.0) if min(values) >= 0 else low), high


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers between low and high."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.8), power * 10)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, digits: int = 4) -> str:
    """Return a short text: 0.1042, 12,000, 1e-4."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, exponent = f"{value:.{max(digits - 2, 0)}e}".split("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _axes(plot: _Plot, unit: str) -> Iterator[str]:
    right, bottom = plot.width - RIGHT, HEIGHT - BOTTOM
    for value in ticks(*plot.values, 5):
        y = plot.y(value)
        yield f'<path class="grid" d="M{LEFT} {y}H{right}"/>'
        yield f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5}" text-anchor="end">{number(value)}</text>'
    for step in ticks(*plot.steps, plot.width // 110):
        if step == round(step):
            x = plot.x(step)
            anchor = "end" if x > right - 16 else "middle"
            at = right if x > right - 16 else x
            yield f'<text class="tick" x="{at}" y="{bottom + 17}" text-anchor="{anchor}">{int(step):,}</text>'
    yield f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>'
    yield f'<text class="tick" x="{LEFT - 12}" y="{bottom + 17}" text-anchor="end">step</text>'
    yield f'<text class="tick" x="{LEFT - 7}" y="9" text-anchor="end">{escape(unit)}</text>'


def _drawn(plot: _Plot, line: Line) -> Iterator[str]:
    commands, pen = [], "M"
    for step, value in thinned(line.points, MOST_DRAWN):
        if value is None:
            pen = "M"
            continue
        commands.append(f"{pen}{plot.x(step)} {plot.y(value)}")
        pen = "L"
    yield f'<path class="line c{line.color} {line.style}" d="{"".join(commands)}"/>'
    for step, low, high in line.spread:
        yield f'<path class="spread c{line.color}" d="M{plot.x(step)} {plot.y(low)}V{plot.y(high)}"/>'
    finite = [(step, value) for step, value in line.points if value is not None]
    if line.style == "dots" or len(finite) == 1:
        for step, value in finite:
            yield f'<circle class="dot c{line.color}" cx="{plot.x(step)}" cy="{plot.y(value)}" r="3"/>'


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most `most` points: lowest and highest of each stretch. So no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most // 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        if finite := [(value, step) for step, value in stretch if value is not None]:
            kept += sorted((step, value) for value, step in {min(finite), max(finite)})
        else:
            kept.append(stretch[0])
    return kept


def _hovers(plot: _Plot, chart: Chart) -> Iterator[str]:
    """Yield one invisible strip per step, with the values of all lines."""
    known = [dict(line.points) for line in chart.lines]
    around = [{step: (low, high) for step, low, high in line.spread} for line in chart.lines]
    every = sorted({step for points in known for step in points})
    steps = every[:: math.ceil(len(every) / MOST_HOVERS)]
    if every and steps[-1] != every[-1]:
        steps.append(every[-1])
    xs = [plot.x(step) for step in steps]
    edges = [float(LEFT), *((a + b) / 2 for a, b in pairwise(xs)), float(plot.width - RIGHT)]
    for index, step in enumerate(steps):
        lines, dots = [f"step {step:,.0f}"], []
        for line, points, spread in zip(chart.lines, known, around, strict=True):
            if step in points:
                value = points[step]
                text = "not finite" if value is None else number(value)
                text += " [{}, {}]".format(*map(number, spread[step])) if step in spread else ""
                lines.append(f"{line.name or chart.title}: {text}")
                if value is not None:
                    dots.append(f'<circle class="c{line.color}" cx="{xs[index]}" cy="{plot.y(value)}" r="3.5"/>')
        left, right = edges[index], edges[index + 1]
        yield (
            f'<g class="hover"><rect x="{left:.1f}" y="{TOP}" width="{max(right - left, 0.1):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/><path d="M{xs[index]} {TOP}V{HEIGHT - BOTTOM}"/>{"".join(dots)}'
            f"<title>{escape(chr(10).join(lines))}</title></g>"
        )
