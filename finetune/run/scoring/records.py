"""Records of scored checkpoints for trackers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.evaluate.choice import Row, excess_of, plateau_start
from finetune.evaluate.drawing import image_path
from finetune.evaluate.grid import Grid
from finetune.evaluate.running.desk import Desk
from finetune.session import Session
from finetune.tracking.backend import ScoredImage

PLATEAU = 3
"""Later checkpoints without an improvement after which an alert is sent, where evaluate.patience is none."""


def log_scores(session: Session, row: Row, folder: Path) -> None:
    """Send a row's numbers, files and alerts to the trackers."""
    desk, tracker = session.desk, session.records.tracker
    if desk is None or tracker is None:
        return
    step = row["step"]
    tracker.log(named_scores(row), step)
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name == "embeddings")
    tracker.log_files(
        folder,
        name=f"{session.run.config.output.export_name}-scored",
        kind="model",
        paths=files,
        metadata={"base_sha256": session.model.base_sha256, "steps": step, **named_scores(row)},
        aliases=("latest", f"step-{step}"),
    )
    for title, text in alerts(desk, row):
        tracker.alert(title, text)


def named_scores(row: Row) -> dict[str, float]:
    """Name a row's scores as metrics."""
    found = {f"score/{name}": score.get("value") for name, score in row["scores"].items()}
    return {name: value for name, value in found.items() if value is not None}


def alerts(desk: Desk, row: Row) -> Iterator[tuple[str, str]]:
    """Yield title and text of each alert that a scored step raises."""
    step = row["step"]
    if "memorisation" in excess_of(row, desk.config.limits):
        copies = row["scores"]["memorisation"].get("detail", {}).get("copies", [])
        names = ", ".join(dict.fromkeys(str(each["training_image"]) for each in copies[:5]))
        yield (
            "Memorisation",
            f"Step {step} repeats training images: {names}. Earlier steps may be better; see best.json.",
        )
    first = plateau_start(desk.rows, desk.config.goal, desk.config.limits)
    if first is not None:
        num_later = sum(other["step"] > first["step"] for other in desk.rows)
        if num_later == (desk.config.patience or PLATEAU):
            yield "Plateau", f"No improvement since step {first['step']}; step {step} was scored last."


def scored_images(session: Session) -> list[ScoredImage]:
    """List the images of all scored checkpoints with their scores."""
    desk = session.desk
    if desk is None:
        return []
    return [image for row in desk.rows for image in images_of(desk.grid, desk, row, session.run.manifest)]


def images_of(grid: Grid, desk: Desk, row: Row, manifest: Manifest) -> Iterator[ScoredImage]:
    """Yield the images of one scored checkpoint by prompt, then seed."""
    folder, base = desk.folder / str(row["images"]), desk.images / "base"
    for number, prompt in enumerate(grid.prompts):
        for column, seed in enumerate(grid.seeds):
            name = nearest_image(row, number, column)
            file = manifest.path_of(name) if name else None
            yield ScoredImage(
                *(prompt.text, prompt.kind, seed, row["step"]),
                *(image_path(folder, number, seed), image_path(base, number, seed)),
                scores=cells_of(row, number, column),
                nearest=name,
                nearest_path=file if file is not None and file.is_file() else None,
            )


def cells_of(row: Row, number: int, column: int) -> dict[str, float]:
    """Read the scores of one image. Those that are not means of images have none."""
    found: dict[str, float] = {}
    for name, score in row["scores"].items():
        if "cells" in score and number in score["prompts"]:
            cells = score["cells"][score["prompts"].index(number)]
            if len(cells) == row["num_seeds"]:  # diversity has one for all seeds
                found[name] = cells[column]
    return found


def nearest_image(row: Row, number: int, column: int) -> str | None:
    """Name the training image that an image is nearest to. Some are not compared."""
    score: dict[str, Any] = row["scores"].get("memorisation", {})
    nearest = score.get("detail", {}).get("nearest")
    if not nearest or number not in score.get("prompts", []):
        return None
    return nearest[score["prompts"].index(number)][column]
