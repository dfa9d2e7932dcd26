"""OUT/report.html: the verdict on a run and what led to it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.report.curves import charts, score_charts, tiles
from finetune.report.data_card import data_card, data_folders, preparation_report, repeated_images, training_images
from finetune.report.gallery import Shown, find_previews, find_scored, pairs
from finetune.report.machines import hardware, read_starts, software
from finetune.report.options import differences
from finetune.report.page import around, asset, templates, write_page
from finetune.report.rows import Row, read_json, read_rows, whole
from finetune.report.scores import Scored, read_scores
from finetune.report.strengths import step_galleries, strength_gallery, stronger
from finetune.report.usage import find_exported, usages
from finetune.report.usage import metadata as file_metadata
from finetune.report.verdict import verdict


def write_report(folder: Path, *, message: str | None = None, votes: Sequence[str] = ()) -> Path:
    """Write OUT/report.html from the run's files, as far as they exist. `message` is shown first, e.g. that the run was
    stopped. `votes` say what people prefer. Returns the page's path."""
    path = folder / "report.html"
    name = folder.absolute().name
    parts = around(f"{name}: training report", style=asset("images.css"), script=asset("images.js"))
    pieces = (
        templates().get_template("run.html").generate(parts, name=name, votes=votes, **contents(folder, path, message))
    )
    write_page(path, pieces)
    return path


def contents(folder: Path, path: Path, message: str | None) -> dict[str, object]:
    """Collect what the page shows."""
    rows, num_broken = read_rows(folder / "metrics.jsonl")
    scored = read_scores(folder)
    config = text_of(folder / "config.yaml")
    given = options_in(config)
    section = given.get("data")
    folders = data_folders(section) if isinstance(section, dict) else {}
    data = ", ".join(map(str, folders.values()))
    card = read_json(folder / "data_card.json")
    shown_card = data_card(card) if card else None
    exported = find_exported(folder)
    shown = images_of(folder, scored)
    chosen = scored.choice.step if scored.choice else None
    source = text_in(given, "model", "source")
    last = max((step for by_step in shown.shots.values() for step in by_step if step), default=None)
    notes = [message] if message else []
    for num, file in ((num_broken, "metrics.jsonl"), (scored.num_broken, "scores.jsonl")):
        if num:
            notes.append(f"Lines of {file} that cannot be read and are left out: {num}.")
    if scored.steps and exported and (ended := ended_early(rows, given)):
        notes.append(ended)
    warnings = [str(text) for text in shown_card.warnings] if shown_card else []
    starts = read_starts(folder, whole(rows[-1]["step"]) if rows else None)
    return {
        "subtitle": f"{source} tuned on {data}" if source and data else "training report",
        "notes": notes,
        "verdict": verdict(folder, scored, rows, exported, warnings),
        "pairs": pairs(shown, chosen or last, stronger(scored)),
        "after": after_name(scored, last),
        "galleries": step_galleries(scored, shown, chosen),
        "strengths": strength_gallery(scored, shown),
        "where": "scored/" if scored.steps and scored.base_images else "previews/",
        "tiles": tiles(rows),
        "scored": scored,
        "score_charts": score_charts(scored),
        "charts": charts(rows, chosen) if rows else [],
        "card": shown_card,
        "training_images": training_images(folders),
        "repeated": repeated_images(scored, folders),
        "preparation": preparation_report(folders[""], path) if "" in folders else None,
        "differences": differences(folder),
        "usages": usages(exported, source, scored.choice.strength if scored.choice else None, shown.prompts[:1])
        if exported
        else [],
        "config": config.strip(),
        "hardware": [*hardware(starts), *trained_with(file_metadata(exported))],
        "software": software(starts),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "version": __version__,
    }


def ended_early(rows: Sequence[Row], given: Mapping[str, Any]) -> str:
    """Say that training ended before its last step; empty otherwise."""
    planned, patience = text_in(given, "train", "steps"), text_in(given, "evaluate", "patience")
    if not rows or not planned.isdecimal() or patience in ("", "0") or (rows[-1]["step"] or 0) >= int(planned):
        return ""
    return (
        f"Training ended early, after step {rows[-1]['step']:,.0f} of {int(planned):,}: {patience} later checkpoints "
        "were scored in vain."
    )


def images_of(folder: Path, scored: Scored) -> Shown:
    """Return the images that were scored, or the previews where nothing was."""
    found = find_scored(scored)
    if any(0 in by_step and len(by_step) > 1 for by_step in found.shots.values()):
        return found
    prompts = read_json(folder / "previews" / "previews.json").get("prompts")
    return Shown(find_previews(folder / "previews"), prompts if isinstance(prompts, list) else [])


def after_name(scored: Scored, last: int | None) -> str:
    """Name the images on the right of the sliders."""
    choice = scored.choice
    if choice is None or choice.step is None:
        return "" if last is None else f"step {last:,}"
    return f"step {choice.step:,}" + (f" at strength {choice.strength:g}" if stronger(scored) else "")


def text_of(file: Path) -> str:
    """Return the text of a file, empty without it."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def options_in(config: str) -> Mapping[str, Any]:
    """Return the sections of a config; empty where it cannot be read."""
    try:
        found = load_yaml(config)
    except StrictYamlError:
        return {}
    return found if isinstance(found, dict) else {}


def text_in(given: Mapping[str, Any], section: str, name: str) -> str:
    """Return an option as text, empty without it."""
    part = given.get(section)
    value = part.get(name) if isinstance(part, dict) else None
    return "" if value is None else str(value)


def trained_with(fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """List what the exported file says of the training."""
    known = (
        ("precision", "ss_mixed_precision"),
        ("images per step", "ss_total_batch_size"),
        ("training images", "ss_num_train_images"),
        ("epochs", "ss_epoch"),
    )
    return [(name, fields[key]) for name, key in known if key in fields]
