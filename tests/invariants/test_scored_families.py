"""Scoring in training with every family."""

import json
from pathlib import Path

import pytest

from tests.support.families import TINY_FAMILIES, save_tiny_pipeline
from tests.support.runs import PREVIEWS, Options, completed


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY_FAMILIES if name != "sd"])
def test_checkpoints_of_every_family_are_scored(name: str, tiny_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_run | PREVIEWS | {"model.source": save_tiny_pipeline(name, tmp_path / "model")}
    options |= {
        "train.steps": 1,
        "evaluate.every": 1,
        "evaluate.max_share": 1.0,
        "evaluate.strengths": (0.5,),
        "evaluate.num_inference_steps": 1,
    }
    options |= {"evaluate.grid.num_prompts": 2, "evaluate.grid.num_seeds": 2, "output.folder": out}
    completed("lora", options, tmp_path / "log")
    (row,) = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    absent = {score: each["reason"] for score, each in row["scores"].items() if "reason" in each}
    assert set(absent) == {"kid", "cmmd"}, absent
    assert json.loads((out / "best.json").read_text())["strengths"]["rows"]
    assert len(list((out / "scored" / "step_000001").glob("prompt*.png"))) == 10
