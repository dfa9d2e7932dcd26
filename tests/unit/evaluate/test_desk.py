from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.evaluate import DrawConfig, ScoringConfig
from finetune.evaluate.grid import Grid, GridPrompt
from finetune.evaluate.running.cost import Plan
from finetune.evaluate.running.desk import Desk, reduced

PROMPTS = (*(GridPrompt(f"a {n}", f"a {n}", "user") for n in range(3)), GridPrompt("a cat", "a cat", "neutral"))
GRID = Grid(PROMPTS, (0, 1, 2, 3, 4), True)
IMAGES = ("base/prompt00_seed0.png", "step_000002/prompt00_seed0.png", "step_000004/prompt00_seed0.png")
IMAGES += ("step_000004/strength_0.50/prompt00_seed0.png", "strengths/step_000004-0.50/prompt00_seed0.png")


def opened(folder: Path, step: int, grid: Grid = GRID) -> Desk:
    return Desk.opened(ScoringConfig(every=2), folder, grid, "data", DrawConfig(size=64), step)


def row(desk: Desk, step: int) -> dict[str, Any]:
    scores = {"style": {"value": step / 10, "low": 0.0, "high": 1.0, "cells": [[step / 10, step / 10]]}}
    return {"id": desk.row_id(step), "step": step, "target": f"step {step}", "scores": scores}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with two scored steps and what was drawn."""
    desk = opened(tmp_path, 0)
    desk.plan = Plan(2, 4)
    desk.write_grid()
    desk.rows = [row(desk, 2), row(desk, 4)]
    desk.write()
    for name in IMAGES:
        path = tmp_path / "scored" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "scored" / "step_000004" / "note.txt").write_text("mine")
    return tmp_path


def left(folder: Path) -> list[str]:
    scored = folder / "scored"
    return sorted(path.relative_to(scored).as_posix() for path in scored.rglob("*") if path.is_file())


def test_a_run_continues_with_its_plan_and_the_rows_before_its_step(folder: Path) -> None:
    desk = opened(folder, 4)
    assert desk.plan == Plan(2, 4) and [each["step"] for each in desk.rows] == [2, 4]
    desk.remove_stale(4)
    assert left(folder) == sorted([*IMAGES, "step_000004/note.txt"])


def test_images_and_rows_of_lost_steps_are_made_again(folder: Path) -> None:
    desk = opened(folder, 3)
    assert [each["step"] for each in desk.rows] == [2]
    desk.remove_stale(3)
    assert left(folder) == ["base/prompt00_seed0.png", "step_000002/prompt00_seed0.png", "step_000004/note.txt"]
    assert len((folder / "scores.jsonl").read_text().splitlines()) == 1


def test_another_grid_leaves_nothing_of_the_one_before(folder: Path) -> None:
    desk = opened(folder, 4, replace(GRID, seeds=(7, 8)))
    assert desk.plan is None and desk.rows == []
    desk.remove_stale(4)
    assert left(folder) == ["step_000004/note.txt"]


def test_a_reduced_grid_has_the_first_prompts_of_each_kind(folder: Path) -> None:
    found = reduced(GRID, Plan(num_prompts=2, num_seeds=4))
    assert [prompt.text for prompt in found.prompts] == ["a 0", "a 1", "a cat"] and found.seeds == (0, 1, 2, 3)
