"""Runs whose checkpoints are scored while they train."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from finetune.config.evaluate import DrawConfig
from finetune.evaluate.command import evaluate, parse_evaluation
from finetune.evaluate.drawing import draw_grid
from finetune.evaluate.grid import Grid, GridPrompt
from finetune.evaluate.target import base_target
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.records.command import RecordsOptions, show_records
from finetune.sampling.metadata import OWN_CHUNK
from tests.support.jobs import completed_job
from tests.support.runs import PREVIEWS, UNCACHED, WITH_TEXT_ENCODER, Options, completed, refused, start

SCORED: Options = PREVIEWS | {"evaluate.every": 2, "evaluate.max_share": 1.0, "evaluate.grid.num_prompts": 2}
SCORED |= {"evaluate.grid.num_seeds": 2, "train.steps": 6, "validation.fraction": 0.3, "checkpoint.keep": 1}
SCORED |= {"data.template": "{caption}, in ink", "evaluate.strengths": (), "evaluate.num_inference_steps": 1}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def best(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "best.json").read_text())


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "export" / "pytorch_lora_weights.safetensors")


def other_prompts(folder: Path) -> list[str]:
    """List scored images whose prompt or seed is not their name's."""
    prompts, found = json.loads((folder / "grid.json").read_text())["prompts"], []
    for path in (folder / "scored").rglob("prompt*_seed*.png"):
        number, seed = map(int, re.findall(r"\d+", path.stem))
        with Image.open(path) as image:
            note = json.loads(image.info[OWN_CHUNK])
        if (note["prompt"], note["seed"]) != (prompts[number]["text"], seed):
            found.append(f"{path}: {note}")
    return found


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_killed_run_has_the_same_scores_and_exports_the_best(tiny_run: Options, tmp_path: Path) -> None:
    """Kill it while the second checkpoint is drawn."""
    options = tiny_run | SCORED | {"evaluate.strengths": (0.5, 1.0), "evaluate.limits.adherence": 1.0}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = completed("lora", options | {"output.folder": whole}, tmp_path / "log")
    cut_options = options | {"output.folder": cut, "output.name": "whole"}
    running = start("lora", cut_options, tmp_path / "log_cut")
    running.wait_until(lambda: any((cut / "scored" / "step_000004").glob("prompt*.png")))
    running.signal(signal.SIGKILL)
    running.wait()
    assert not (cut / "run.json").exists()
    completed("lora", cut_options, tmp_path / "log_again")
    assert (cut / "scores.jsonl").read_bytes() == (whole / "scores.jsonl").read_bytes()
    assert (cut / "best.json").read_bytes() == (whole / "best.json").read_bytes()
    assert [row["step"] for row in rows(whole)] == [2, 4, 6]
    assert other_prompts(whole) == other_prompts(cut) == []
    chosen = best(whole)["step"]
    status = json.loads((whole / "run.json").read_text())
    assert status["steps"] == 6 and status.get("exported_step", 6) == chosen
    assert f"Exported: step {chosen}." in ended.output
    assert (tmp_path / "records.sqlite").is_file()
    found = show_records(RecordsOptions(tmp_path, num=1000)).rows
    assert sum(row["step"] == chosen and row["run"] == "whole" for row in found) >= 14
    small = safetensors.torch.load_file(whole / "scored" / f"step_{chosen:06d}" / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(small[name], value) for name, value in exported(whole).items())
    strengths = best(whole)["strengths"]
    assert [row["strength"] for row in strengths["rows"]] == [0.5, 1.0] and strengths["step"] == chosen
    report = (whole / "report.html").read_text()
    disagrees = "would choose that one"  # by one rule for both
    assert (disagrees in report) == (disagrees in ended.output)
    recorded = [json.loads((folder / "machines.json").read_text())["starts"] for folder in (whole, cut)]
    assert [len(starts) for starts in recorded] == [1, 2] and recorded[1][1]["machines"][0]["processors"]
    assert f"<b>Use step {chosen}" in report and f"step {chosen} · chosen" in report and "strength 0.5" in report
    with safe_open(whole / "export" / "whole.safetensors", framework="np") as file:
        assert file.metadata()["modelspec.usage_hint"] == strengths["reason"]
        assert file.metadata()["ss_steps"] == str(chosen)


def test_a_scored_step_is_drawn_as_its_file_is_drawn(tiny_run: Options, tmp_path: Path) -> None:
    """Draw the small file of a step by `finetune evaluate`. Images are equal within a level."""
    out, again = tmp_path / "out", tmp_path / "again"
    options = tiny_run | SCORED | {"output.folder": out, "train.steps": 2, "optim.lr": 0.1}
    completed("lora", options, tmp_path / "log")
    file = out / "scored" / "step_000002" / "pytorch_lora_weights.safetensors"
    arguments = [str(file), "--model.source", str(options["model.source"]), "--output", str(again)]
    arguments += ["--data.folder", str(options["data.folder"]), "--data.template", "{caption}, in ink"]
    arguments += ["--data.validation_fraction", "0.3", "--grid.num_prompts", "2", "--grid.num_seeds", "2"]
    arguments += ["--grid.prompts", "a red circle", "--draw.num_inference_steps", "1", "--draw.size", "64"]
    evaluate(parse_evaluation(arguments), lambda text: None)
    (folder,) = (again / "images").glob("target-*")
    (base,) = (again / "images").glob("base-*")
    drawn = sorted((out / "scored" / "step_000002").glob("prompt*.png"))
    assert len(drawn) == 14
    assert max(np.abs(pixels(path) - pixels(folder / path.name)).max() for path in drawn) <= 1
    assert (
        max(np.abs(pixels(out / "scored" / "base" / path.name) - pixels(base / path.name)).max() for path in drawn) <= 1
    )
    (own,), (theirs,) = rows(out), rows(again)
    for name, score in theirs["scores"].items():
        assert own["scores"][name].get("value") == pytest.approx(score.get("value"), abs=0.05), name


@pytest.mark.slow
def test_training_ends_early_and_another_step_is_exported_later(tiny_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_run | SCORED | {"evaluate.patience": 1, "train.steps": 12, "output.folder": out, "optim.lr": 1e-6}
    ended = completed("lora", options, tmp_path / "log")
    assert "Training ended early, after step 4 of 12" in ended.output
    assert [row["step"] for row in rows(out)] == [2, 4] and best(out)["step"] == 4
    status = json.loads((out / "run.json").read_text())
    assert (status["steps"], status["stopped_early"]) == (4, True) and "exported_step" not in status
    again = completed("lora", options, tmp_path / "log_again")
    assert "is finished (4 steps of 12, after which later ones were in vain)" in again.output
    fourth = exported(out)
    completed("lora", options | {"evaluate.export": "2"}, tmp_path / "log_2")
    small = safetensors.torch.load_file(out / "scored" / "step_000002" / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(small[name], value) for name, value in exported(out).items())
    assert any(not torch.equal(fourth[name], value) for name, value in exported(out).items())
    assert json.loads((out / "run.json").read_text())["exported_step"] == 2
    further = completed("lora", options | {"evaluate.patience": 0, "train.steps": 8}, tmp_path / "log_on")
    assert "is finished" not in further.output and [row["step"] for row in rows(out)] == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "own"),
    [
        ("full", {"train.ema_decay": 0.5, "optim.lr": 1e-2}),
        ("lora", {"lora.init": "pissa"}),
        ("lora", WITH_TEXT_ENCODER | {"lora.kind": "lokr", "evaluate.strengths": (0.5,)}),
        ("lora", UNCACHED | {"model.quantization": "nf4"}),
        ("textual_inversion", {"tokens.names": ("<ink>",), "data.template": "{caption}, <ink>", "optim.lr": 0.5}),
    ],
)
def test_every_method_is_scored_against_the_base_model(
    recipe: str, own: Options, tiny_run: Options, tmp_path: Path
) -> None:
    """Draw the base model by itself too. The tuned images differ from it."""
    out = tmp_path / "out"
    options = tiny_run | SCORED | {"train.steps": 2, "output.folder": out, "optim.lr": 0.1} | own
    options = {key: value for key, value in options.items() if recipe == "lora" or not key.startswith("lora.")}
    completed(recipe, options, tmp_path / "log")
    assert [row["step"] for row in rows(out)] == [2]
    known = json.loads((out / "grid.json").read_text())
    grid = Grid(tuple(GridPrompt(**each) for each in known["prompts"]), tuple(known["seeds"]), True)
    source = str(options["model.source"])
    draw = DrawConfig(size=64, num_inference_steps=1)
    draw_grid(family_named("sd"), ModelSource(source), base_target(source, None), grid, draw, tmp_path / "base")
    if "model.quantization" not in own:  # whose base model is quantised too
        for path in (tmp_path / "base").glob("*.png"):
            assert np.abs(pixels(path) - pixels(out / "scored" / "base" / path.name)).max() <= 1, path.name
    tuned = sorted((out / "scored" / "step_000002").glob("prompt*.png"))
    assert any((pixels(path) != pixels(out / "scored" / "base" / path.name)).any() for path in tuned)
    assert ("strengths" in best(out)) == ("evaluate.strengths" in own)


@pytest.mark.slow
def test_two_processes_score_as_one_does(tiny_run: Options, tmp_path: Path) -> None:
    one = tiny_run | SCORED | {"train.steps": 2, "train.batch_size": 4, "output.folder": tmp_path / "one"}
    completed("lora", one, tmp_path / "log")
    completed_job("lora", one | {"output.folder": tmp_path / "two"}, tmp_path / "logs")
    (first,), (second,) = rows(tmp_path / "one"), rows(tmp_path / "two")
    for name, score in first["scores"].items():
        assert second["scores"][name].get("value") == pytest.approx(score.get("value"), abs=0.02), name
    assert not list((tmp_path / "two" / "scored").rglob(".tmp-*"))


@pytest.mark.slow
def test_a_bound_on_time_reduces_the_grid_and_says_so(tiny_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_run | SCORED | {"evaluate.max_share": 0.0, "evaluate.grid.num_seeds": 5, "output.folder": out}
    ended = completed("lora", options | {"train.steps": 4, "evaluate.strengths": (0.5, 1.0)}, tmp_path / "log")
    assert "evaluate.max_share: all scoring would take" in ended.output
    assert [row["step"] for row in rows(out)] == [4]
    (row,) = rows(out)
    assert row["num_seeds"] == 4 and row["num_prompts"] == 4 and "strengths" not in best(out)
    assert other_prompts(out) == []
    assert len(list((out / "scored" / "base").glob("*.png"))) == 16


def test_mistakes_are_found_before_a_model_loads(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | SCORED | {"output.folder": tmp_path / "out", "model.source": str(tiny_run["model.source"])}
    refused("lora", options | {"evaluate.export": "3"}, tmp_path / "a", "evaluate.export: got 3", "a multiple of")
    refused("lora", options | {"evaluate.export": "third"}, tmp_path / "b", "expected best, last, or the step")
    refused("lora", options | {"evaluate.every": 0, "evaluate.patience": 2}, tmp_path / "c", "evaluate.every is 0")
    subject = {"evaluate.goal": "subject"}
    refused("lora", options | subject, tmp_path / "e", "evaluate.grid.subject: missing with evaluate.goal subject")
    few = {"evaluate.grid.contents": ("a red circle",)}
    refused("lora", options | few, tmp_path / "d", "evaluate.grid.contents: 0 of 1 things", "--evaluate.grid.contents")
