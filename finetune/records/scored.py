"""The scores of images, from grid.json, scores.jsonl and best.json of a folder. Torch-free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.records.image_file import as_whole
from finetune.report.rows import finite, items, objects, read_json, read_objects

STEP = re.compile(r"step_(\d{1,15})")
STRENGTH = re.compile(r"(?:step_\d{1,15}-|strength_)(\d{1,9}(?:\.\d{1,9})?)")
"""Of a folder within those of the steps, or within the folder of the sweep."""


@dataclass(frozen=True)
class RecordedScore:
    """One score of an image's checkpoint. `image` is that of the image itself."""

    value: float | None
    low: float | None
    high: float | None
    image: float | None
    """None where the score is not a mean over images."""


Scores = Mapping[str, RecordedScore]


@dataclass(frozen=True)
class ScoredFolder:
    """Content of a scored folder's files. Each of them may be missing."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any]

    @staticmethod
    def read(folder: Path) -> "ScoredFolder":
        """Read a folder's files, as far as they are there."""
        grid = read_json(folder / "grid.json")
        prompts = tuple(str(each.get("text", "")) for each in objects(grid.get("prompts")))
        seeds = tuple(seed for each in items(grid.get("seeds")) if (seed := as_whole(each)) is not None)
        return ScoredFolder(
            prompts, seeds, tuple(read_objects(folder / "scores.jsonl")[0]), read_json(folder / "best.json")
        )

    def row_of(self, images: str) -> Mapping[str, Any] | None:
        """Find the checkpoint by the folder of its images. The path is relative to this folder."""
        return next((row for row in self.rows if row.get("images") == images), None)

    def row_of_step(self, step: int) -> Mapping[str, Any] | None:
        """Find the checkpoint of a step, where only one has it."""
        found = [row for row in self.rows if as_whole(row.get("step")) == step]
        return found[0] if len(found) == 1 else None

    def row_of_strength(self, step: int, strength: float) -> Mapping[str, Any] | None:
        """Find the scores of the best checkpoint at a strength."""
        strengths = self.best.get("strengths")
        rows = objects(strengths.get("rows")) if isinstance(strengths, dict) else []
        if as_whole(self.best.get("step")) != step:
            return None
        return next((row for row in rows if finite(row.get("strength")) == strength), None)

    def scores(self, row: Mapping[str, Any] | None, prompt: int = -1, seed: int = -1) -> dict[str, RecordedScore]:
        """List the scores of a checkpoint. A prompt's number and a seed add those of an image."""
        given = row.get("scores") if row else None
        found: dict[str, RecordedScore] = {}
        for name, score in given.items() if isinstance(given, dict) else ():
            if isinstance(score, dict):
                value, low, high = (finite(score.get(key)) for key in ("value", "low", "high"))
                recorded = RecordedScore(value, low, high, self.own_score(score, prompt, seed))
                if recorded != RecordedScore(None, None, None, None):
                    found[str(name)] = recorded
        return found

    def own_score(self, score: Mapping[str, Any], prompt: int, seed: int) -> float | None:
        """Find an image's own score among the cells."""
        try:
            place = items(score.get("prompts")).index(prompt), self.seeds.index(seed)
            return finite(items(items(score.get("cells"))[place[0]])[place[1]])
        except (ValueError, IndexError):
            return None
