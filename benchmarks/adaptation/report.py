"""Tables of benchmarks/methods.py, and the image of the trade-off curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptation.methods import BATCH_SIZE
from adaptation.style import Row

QUARTER, LEAST_KEPT = 0.25, 0.8
Table = list[tuple[str, ...]]


def columns(rows: Table) -> str:
    """Return the rows in columns."""
    widths = [max(len(row[place]) for row in rows if place < len(row)) for place in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def spread(values: Sequence[float]) -> str:
    """Return the mean and half the range of several values as text."""
    half = f" +- {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{half}"


def curve_table(rows: Sequence[Row]) -> Table:
    """Write one line per point of each method and set."""
    table: Table = [("set", "method", "step", "strength", "distance left", "kept, top-1", "kept, top-5")]
    for row in rows:
        place = ("", "") if row.point is None else (str(row.point.step), f"{row.point.strength:g}")
        found = zip(*((each.ratio, each.top_1, each.top_5) for each in row.seeds), strict=True)
        table.append((row.set, row.method, *place, *map(spread, found)))
    return table


def curves(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group the points at full strength by set and method."""
    found = dict[tuple[str, str], list[Row]]()
    for row in rows:
        if row.point is not None and row.point.strength == 1:
            found.setdefault((row.set, row.method), []).append(row)
    return found


def images_until(curve: Sequence[Row]) -> str:
    """Count the images until QUARTER is left with LEAST_KEPT."""
    steps = [row.point.step for row in curve if row.point is not None]
    reached = [step for step, row in zip(steps, curve, strict=True) if row.ratio <= QUARTER and row.kept >= LEAST_KEPT]
    return f"{reached[0] * BATCH_SIZE:,}" if reached else f"not in {max(steps) * BATCH_SIZE:,}"


def until_table(rows: Sequence[Row]) -> Table:
    """Write the images until a quarter is left, one line per method."""
    found = curves(rows)
    sets, methods = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    table: Table = [("method", *sets)]
    for method in methods:
        cells = (images_until(found[name, method]) if (name, method) in found else "failed" for name in sets)
        table.append((method, *cells))
    return table


def save_curves(rows: Sequence[Row], target: Path) -> None:
    """Draw concepts kept against style distance, one panel per set.

    Points of a method are joined in the order of steps; its strengths are joined by dots.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the curves need matplotlib. Install it: pip install 'sd-finetune[demo]'") from error
    found = curves(rows)
    names, methods = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    figure: Any = Figure(figsize=(6 * len(names), 5.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for panel, name in zip(panels, names, strict=True):
        for number, method in enumerate(methods):
            curve = found.get((name, method), [])
            look = {"color": f"C{number % 10}", "marker": "o" if number < 10 else "s", "markersize": 4}
            panel.plot([row.ratio for row in curve], [row.kept for row in curve], label=method, **look)
            weaker = [row for row in rows if row.set == name and row.method == method and row not in curve]
            ordered = sorted(weaker, key=lambda row: row.point.strength if row.point else 0.0) + curve[-1:]
            if weaker:
                panel.plot([row.ratio for row in ordered], [row.kept for row in ordered], ":", **look)
        for row in rows:
            if row.set == name and row.point is None:
                panel.plot(row.ratio, row.kept, "k*")
                panel.annotate(row.method, (row.ratio, row.kept), textcoords="offset points", xytext=(4, 4))
        panel.axvline(QUARTER, color="grey", linewidth=0.6)
        panel.axhline(LEAST_KEPT, color="grey", linewidth=0.6)
        panel.set(title=name, xlabel="share of the style distance that is left", ylabel="concepts kept, top-5")
    panels[0].legend(fontsize=8)
    figure.savefig(target, dpi=110)
