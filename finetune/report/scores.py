"""The contents of grid.json, scores.jsonl and best.json, as far as they exist."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.report.rows import finite, items, objects, read_json, read_objects, whole


@dataclass(frozen=True)
class ScoreValue:
    """One score of a step, with its interval."""

    name: str
    meaning: str
    better: str
    value: float | None
    low: float | None
    high: float | None
    features: str = ""
    reason: str = ""
    """Why there is no value."""
    detail: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def level(self) -> tuple[str, float] | None:
        """Name and value of the base model's score or false alarms."""
        for key, name in (("base", "base model"), ("false_alarms", "false alarms")):
            if (value := finite(self.detail.get(key))) is not None:
                return name, value
        return None


@dataclass(frozen=True)
class ScoredStep:
    """The scores of one checkpoint."""

    step: int | None
    target: str
    images: Path | None
    """Folder of its images."""
    scores: dict[str, ScoreValue]
    row: dict[str, Any]
    """The object of scores.jsonl."""

    @property
    def name(self) -> str:
        return self.target if self.step is None else f"step {self.step:,}"

    @property
    def repeated_images(self) -> list[str]:
        """Names of training images that are repeated more than by chance."""
        score = self.scores.get("memorisation")
        if score is None or score.value is None:
            return []
        if (score.low or 0.0) <= (finite(score.detail.get("false_alarms")) or 0.0):
            return []
        found = [each.get("training_image") for each in objects(score.detail.get("copies"))]
        return list(dict.fromkeys(str(name) for name in found if name))


@dataclass(frozen=True)
class Strength:
    """The scores of the chosen checkpoint at one strength."""

    value: float
    scores: dict[str, ScoreValue]
    is_usable: bool
    images: Path | None


@dataclass(frozen=True)
class Choice:
    """The contents of best.json."""

    step: int | None
    target: str
    goal: str
    rule: str
    reason: str
    runner_up: str
    warnings: list[str]
    strength: float | None
    usable: list[float]
    strength_reason: str
    strengths: list[Strength]
    exported_step: int | None = None
    """The step in export/; None where it is not recorded."""

    @property
    def name(self) -> str:
        return self.target if self.step is None else f"step {self.step:,}"


@dataclass(frozen=True)
class Scored:
    """All that was scored of a run; empty where nothing was."""

    prompts: list[tuple[str, str]]
    """Text and kind of each prompt of the grid."""
    seeds: list[int]
    base_images: Path | None
    steps: list[ScoredStep]
    choice: Choice | None
    num_broken: int = 0
    """Lines of scores.jsonl that cannot be read."""

    @property
    def chosen(self) -> ScoredStep | None:
        """The scores of the chosen checkpoint."""
        choice = self.choice
        if choice is None:
            return None
        same = [each for each in self.steps if (each.step, each.target) == (choice.step, choice.target)]
        return next(iter(same + [each for each in self.steps if each.step == choice.step is not None]), None)

    @property
    def names(self) -> list[str]:
        """Names of all scores, in the order met."""
        return list(dict.fromkeys(name for each in self.steps for name in each.scores))


def read_scores(folder: Path) -> Scored:
    """Read the scores of a run, or those of `finetune evaluate`."""
    grid = read_json(folder / "grid.json")
    steps: list[ScoredStep] = []
    rows, num_broken = read_objects(folder / "scores.jsonl")
    for row in rows:
        scores = score_values(row.get("scores"))
        step = whole(row.get("step"))
        images = inside(folder, row.get("images"))
        steps.append(ScoredStep(step, str(row.get("target", "")), images, scores, row))
    prompts = [(str(each.get("text", "")), str(each.get("kind", ""))) for each in objects(grid.get("prompts"))]
    seeds = [int(seed) for each in items(grid.get("seeds")) if (seed := finite(each)) is not None]
    ordered = sorted(latest(steps), key=lambda each: (each.step is None, each.step or 0, each.target))
    return Scored(prompts, seeds, base_images(folder, grid), ordered, read_choice(folder), num_broken)


def latest(steps: Sequence[ScoredStep]) -> list[ScoredStep]:
    """Keep the last row of each checkpoint."""
    return list({(each.step, each.target): each for each in steps}.values())


def base_images(folder: Path, grid: dict[str, Any]) -> Path | None:
    """Find the folder of the base model's images."""
    named = inside(folder, grid.get("base_images"))
    return named or next((path for path in sorted(folder.glob("images/base-*")) if path.is_dir()), None)


def read_choice(folder: Path) -> Choice | None:
    """Read best.json, or return None without one."""
    best = read_json(folder / "best.json")
    if not best:
        return None
    step = whole(best.get("step"))
    other = best.get("runner_up")
    runner_up = ""
    if isinstance(other, dict):
        other_step = finite(other.get("step"))
        runner_up = str(other.get("target", "")) if other_step is None else f"step {int(other_step):,}"
    given = best.get("strengths")
    found = given if isinstance(given, dict) else {}
    if finite(found.get("step", step)) != step:  # of an exported step that is not the chosen one
        found = {}
    usable = [value for each in items(found.get("usable")) if (value := finite(each)) is not None]
    return Choice(
        step=step,
        target=str(best.get("target", "")),
        goal=str(best.get("goal", "style")),
        rule=str(best.get("rule", "")),
        reason=str(best.get("reason", "")),
        runner_up=runner_up,
        warnings=[str(each) for each in items(best.get("warnings"))],
        strength=finite(found.get("best")),
        usable=usable,
        strength_reason=str(found.get("reason", "")),
        strengths=read_strengths(folder, step, found, usable),
        exported_step=whole(best.get("exported_step")),
    )


def read_strengths(folder: Path, step: int | None, found: dict[str, Any], usable: list[float]) -> list[Strength]:
    """Read the sweep of strengths, the weakest first."""
    folders = {} if step is None else strength_folders(folder, step)
    strengths: list[Strength] = []
    for row in objects(found.get("rows")):
        value = finite(row.get("strength"))
        if value is None:
            continue
        in_range = bool(usable) and min(usable) <= value <= max(usable)
        strengths.append(Strength(value, score_values(row.get("scores")), in_range, folders.get(value)))
    return sorted(strengths, key=lambda each: each.value)


def strength_folders(folder: Path, step: int) -> dict[float, Path]:
    """Find the folders of a step's images at other strengths."""
    found: dict[float, Path] = {}
    start = f"step_{step:06d}-"
    for path in sorted((folder / "scored" / "strengths").glob(f"{start}*")):
        with contextlib.suppress(ValueError):
            found[float(path.name.removeprefix(start))] = path
    return found


def score_values(given: object) -> dict[str, ScoreValue]:
    """Read the scores of a row by name. A bare number is a value without an interval."""
    found: dict[str, ScoreValue] = {}
    for name, score in given.items() if isinstance(given, dict) else ():
        each = score if isinstance(score, dict) else {"value": score}
        detail = each.get("detail")
        found[str(name)] = ScoreValue(
            name=str(name),
            meaning=str(each.get("meaning", "")),
            better=str(each.get("better", "")),
            value=finite(each.get("value")),
            low=finite(each.get("low")),
            high=finite(each.get("high")),
            features=str(each.get("features", "")),
            reason=str(each.get("reason", "")),
            detail=detail if isinstance(detail, dict) else {},
        )
    return found


def inside(folder: Path, name: object) -> Path | None:
    """Return a folder by its relative path. It is None if it is missing or outside."""
    if not isinstance(name, str) or not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        return None
    path = folder / name
    return path if path.is_dir() else None
