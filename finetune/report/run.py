"""OUT/report.html: a run at a glance, from the run folder's files."""

import itertools
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import cast

from markupsafe import Markup

from finetune import __version__
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.report.charts import Chart, Level, Line, Point, line_chart, number, smoothed
from finetune.report.data_card import data_card
from finetune.report.page import around, templates, write_page
from finetune.report.previews import find_previews, preview_table
from finetune.report.rows import Row, base_loss, numbers, read_json, read_rows, series
from finetune.report.validation import lowest, relative_lines, summary

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors", "wandb")


def write_report(folder: Path, *, message: str | None = None) -> Path:
    """Write OUT/report.html from the run's files, as far as they exist. They are metrics.jsonl, config.yaml,
    data_card.json and previews/. `message` is shown first, e.g. that the run was stopped. Returns the page's path."""
    rows, num_broken = read_rows(folder / "metrics.jsonl")
    card = read_json(folder / "data_card.json")
    shots = find_previews(folder / "previews")
    prompts = read_json(folder / "previews" / "previews.json").get("prompts") or []
    config_file = folder / "config.yaml"
    config = config_file.read_text(encoding="utf-8") if config_file.exists() else ""
    name = folder.absolute().name
    notes = [message] if message else []
    low = lowest(rows)
    if low is not None and low.has_risen:
        notes.append(summary(rows))
    if num_broken:
        notes.append(f"Lines of metrics.jsonl that cannot be read and are left out: {num_broken}.")
    pieces = (
        templates()
        .get_template("run.html")
        .generate(
            around(f"{name}: training report"),
            name=name,
            subtitle=subtitle(config),
            notes=notes,
            tiles=tiles(rows),
            charts=charts(rows) if rows else [],
            table=preview_table(shots, prompts),
            card=data_card(card) if card else None,
            config=config.strip(),
            versions=versions(),
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            version=__version__,
        )
    )
    path = folder / "report.html"
    write_page(path, pieces)
    return path


def subtitle(config: str) -> str:
    """Return the model and data of the run in one line."""
    try:
        options = cast("dict[str, dict[str, object]]", load_yaml(config))
        return f"{options['model']['source']} tuned on {options['data']['folder']}"
    except (StrictYamlError, KeyError, TypeError):
        return "training report"


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
        found.append(Tile("images per second", number(statistics.median(speeds), 3), "median"))
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


def charts(rows: Sequence[Row]) -> list[Markup]:
    """Return the curves."""
    loss, grad_norm, speed = (series(rows, key) for key in ("loss", "grad_norm", "images_per_second"))
    base, rates = base_loss(rows), sorted({key for row in rows for key in row if key == "lr" or key.startswith("lr_")})
    validation = series(rows, "validation/loss")
    if base is not None and validation and validation[0][0] > 0:
        validation = ((0.0, base), *validation)
    drawn = [
        Chart("Loss", "loss", raw_and_smooth(loss), width=1150),
        Chart(
            "Validation loss",
            "loss",
            (Line("held-out images", validation, "dots", color=2),),
            Level(f"base model {number(base)}", base) if base is not None else None,
        ),
        Chart("Validation loss by timestep", "share of the first", relative_lines(rows)),
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


def raw_and_smooth(points: tuple[Point, ...], color: int = 1) -> tuple[Line, ...]:
    """Return the raw line behind its running mean."""
    return Line("raw", points, "faint", color), Line("running mean", smoothed(points), color=color)


def versions() -> list[tuple[str, str]]:
    """List the versions of software that the run was made with."""
    found = [("Python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return found
