"""OUT/report.html: a run at a glance, made from the files the run left in its folder."""

import itertools
import json
import math
import platform
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.report.charts import Chart, Level, Line, Point, line_chart, number, smoothed
from finetune.report.page import banner, facts_table, nothing, page, section, write_page
from finetune.report.previews import find_previews, preview_table

Row = dict[str, float | None]

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors", "wandb")


def write_report(folder: Path, *, message: str | None = None) -> Path:
    """Writes OUT/report.html from metrics.jsonl, config.yaml, data_card.json and previews/, as far as they exist.

    `message` says what a reader must know first, e.g. that the run was stopped. Returns the page's path.
    """
    rows, num_broken = read_rows(folder / "metrics.jsonl")
    card = read_json(folder / "data_card.json")
    shots = find_previews(folder / "previews")
    prompts = read_json(folder / "previews" / "previews.json").get("prompts") or []
    config_file = folder / "config.yaml"
    config = config_file.read_text(encoding="utf-8") if config_file.exists() else ""
    name = folder.absolute().name
    notes = [message] if message else []
    if num_broken:
        notes.append(f"Lines of metrics.jsonl that cannot be read and are left out: {num_broken}.")
    body = [
        f"<header><h1>{escape(name)}</h1><p>{escape(subtitle(config))}</p>{banner(notes)}</header>",
        tiles(rows),
        section("Curves", f'<div class="charts">{charts(rows)}</div>' if rows else nothing("No step was logged yet.")),
        section("Previews", preview_table(shots, prompts) if shots else nothing("No previews were made.")),
        section("Data", data_card(card) if card else nothing("No data card was written.")),
        '<div class="pair">',
        section("Config", f'<div class="card wide"><pre>{escape(config.strip()) or "none"}</pre></div>'),
        section("Environment", environment()),
        "</div>",
        f"<footer>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by sd-finetune {escape(__version__)}.</footer>",
    ]
    path = folder / "report.html"
    write_page(path, page(f"{name}: training report", "\n".join(body)))
    return path


def read_rows(file: Path) -> tuple[list[Row], int]:
    """Returns the rows by step, and how many lines hold none; numbers that are not finite are None."""
    rows, num_broken = [], 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []:
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, KeyError, TypeError):
            num_broken += 1
            continue
        rows.append({key: finite(value) for key, value in values.items()} | {"step": step})
    return sorted(rows, key=lambda row: row["step"] or 0), num_broken


def finite(value: Any) -> float | None:
    """Returns the number; None for all that is none or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a file; empty where there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def series(rows: Sequence[Row], key: str) -> tuple[Point, ...]:
    """Returns the points of the rows that hold the key."""
    return tuple((row["step"] or 0.0, row[key]) for row in rows if key in row)


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """Returns the finite values of a key."""
    return [value for _, value in series(rows, key) if value is not None]


def base_loss(rows: Sequence[Row]) -> float | None:
    """Returns the untouched model's validation loss."""
    at_start = numbers([row for row in rows if row["step"] == 0], "validation/loss")
    return next(iter(at_start + numbers(rows, "validation/base_loss")), None)


def subtitle(config: str) -> str:
    """Returns the model and data of the run in a line."""
    try:
        options = load_yaml(config)
        return f"{options['model']['source']} tuned on {options['data']['folder']}"
    except (StrictYamlError, KeyError, TypeError):
        return "training report"


def tiles(rows: Sequence[Row]) -> str:
    """Returns the headline figures."""
    found: list[tuple[str, str, str]] = []
    if rows:
        seen = numbers(rows, "images_seen")
        found.append(("steps", f"{rows[-1]['step']:,.0f}", f"{seen[-1]:,.0f} images seen" if seen else ""))
    losses = [value for _, value in smoothed(series(rows, "loss")) if value is not None]
    if losses:
        found.append(("final loss", number(losses[-1]), "running mean"))
    validation, base = numbers(rows, "validation/loss"), base_loss(rows)
    if validation:
        first = validation[0] if base is None else base
        change = (validation[-1] - first) / first if first else 0.0
        kind = "better" if change < 0 else ""
        text = f'<span class="{kind}">{change:+.1%} against the untouched model</span>' if base is not None else ""
        found.append(("validation loss", f"{number(first, 3)} → {number(validation[-1], 3)}", text))
    speeds = numbers(rows, "images_per_second")
    if speeds:
        found.append(("images per second", number(statistics.median(speeds), 3), "median"))
    elapsed = numbers(rows, "elapsed_seconds")
    if elapsed:
        found.append(("time in steps", duration(elapsed[-1]), "without previews and validation"))
    cells = (
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"{note if note.startswith('<') else f'<span>{escape(note)}</span>'}</div>"
        for name, value, note in found
    )
    return f'<div class="tiles">{"".join(cells)}</div>' if found else ""


def duration(seconds: float) -> str:
    """Returns 42 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def name_of_rate(key: str) -> str:
    """Returns what a learning rate's key says: lr_text_encoder is that of the text encoder, lr that of the rest."""
    return key.removeprefix("lr_").replace("_", " ") if key != "lr" else "the rest"


def charts(rows: Sequence[Row]) -> str:
    """Returns the curves."""
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
            (Line("held-out pictures", validation, "dots", color=2),),
            Level(f"untouched model {number(base)}", base) if base is not None else None,
        ),
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
    return "".join(map(line_chart, drawn))


def raw_and_smooth(points: tuple[Point, ...], color: int = 1) -> tuple[Line, ...]:
    """Returns the raw line behind its running mean."""
    return Line("raw", points, "faint", color), Line("running mean", smoothed(points), color=color)


def data_card(card: dict[str, Any]) -> str:
    """Returns what the run was trained on."""
    counts = (
        f"{card.get('num_pictures', '?')} pictures: {card.get('num_train', '?')} to train on, "
        f"{card.get('num_validation', '?')} held out"
    )
    captions = card.get("captions") or {}
    facts = [
        ("location", card.get("location", "")),
        ("pictures", counts),
        ("captions", f"{captions.get('num', '?')}, at most {captions.get('most_per_picture', '?')} a picture"),
        ("fingerprint", card.get("fingerprint", "")),
    ]
    if parameters := card.get("parameters"):
        facts.append(("parameters", f"{parameters['trained']:,} trained, {parameters['frozen']:,} frozen"))
    warnings = [str(warning) for warning in card.get("warnings") or []]
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    called = f'<div class="banner"><ul>{items}</ul></div>' if warnings else ""
    return f'<div class="card">{facts_table(facts)}</div>{called}{bucket_table(card.get("buckets") or [])}'


def bucket_table(buckets: Sequence[dict[str, Any]]) -> str:
    """Returns the buckets with their sizes, as numbers and bars."""
    if not buckets:
        return ""
    largest = max(finite(bucket.get("num_pictures")) or 0 for bucket in buckets) or 1

    def lines() -> Iterator[str]:
        for bucket in buckets:
            num_pictures = finite(bucket.get("num_pictures")) or 0
            crop = finite(bucket.get("crop_loss_mean"))
            yield (
                f"<tr><td>{escape(str(bucket.get('width')))} × {escape(str(bucket.get('height')))}</td>"
                f'<td class="right">{num_pictures:,.0f}</td>'
                f'<td><span class="bar" style="width:{260 * num_pictures / largest:.0f}px"></span></td>'
                f'<td class="right">{"" if crop is None else f"{crop:.1%}"}</td>'
                f'<td class="right">{escape(str(bucket.get("num_upscaled", "")))}</td></tr>'
            )

    return (
        '<div class="card wide" style="margin-top:14px"><table class="figures"><tr><th>bucket</th>'
        '<th class="right">pictures</th><th></th><th class="right">area cropped</th>'
        '<th class="right">upscaled</th></tr>'
        f"{''.join(lines())}</table></div>"
    )


def environment() -> str:
    """Returns the versions the run was made with."""
    versions = [("Python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return f'<div class="card">{facts_table(versions)}</div>'
