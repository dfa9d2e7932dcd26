"""W&B sweeps, as `wandb agent` runs their commands."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from finetune.config.parse.command_line import parse
from finetune.config.parse.presets import find_preset
from finetune.config.parse.recipe_options import RECIPES
from tests.support.wandb_server import read_records

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def trials(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """List the parameters of every trial, as the server does."""
    choices = {name: each.get("values", [each.get("value")]) for name, each in sweep["parameters"].items()}
    return [
        {name: {"value": value} for name, value in zip(choices, values, strict=True)}
        for values in itertools.product(*choices.values())
    ]


def agents_command(sweep: dict[str, Any], trial: dict[str, Any]) -> list[str]:
    """Build the command of a trial, as the agent does."""
    expanded = create_sweep_command_args({"args": trial}) | {"program": [sweep["program"]]}
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        words += expanded[word[2:-1]] if word.startswith("${") else [word]
    return words


def read_sweep(path: Path) -> dict[str, Any]:
    found = load_sweep_config(str(path))
    assert found == yaml.safe_load(path.read_text())
    return found


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_trial_is_a_command_that_its_recipe_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "k3x9")
    sweep = read_sweep(path)
    assert sweep["metric"] == {"name": "loss/validation", "goal": "minimize"}
    for trial in trials(sweep):
        words = agents_command(sweep, trial)
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        options = words[words.index("-m") + 2 :]
        config: Any = parse(RECIPES[sweep["program"]], options, program="test", find_file=find_preset)
        assert config.output.folder == Path("runs/sweep/k3x9")
        assert config.optim.lr == trial["optim.lr"]["value"] and config.lora.rank == trial["lora.rank"]["value"]


@pytest.mark.parametrize("run_id", [None, "", "../up", ".."])
def test_a_folder_named_by_a_run_needs_the_runs_id(run_id: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    if run_id is not None:
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
    options = ["--config", "demo", "--model.source", "m", "--data.folder", "d", "--output.folder", "a/{WANDB_RUN_ID}"]
    options += ["--output.mirror", "s3://b/{WANDB_RUN_ID}"]
    with pytest.raises(ValueError, match=r"output\.folder: got .*WANDB_RUN_ID(.|\n)*output\.mirror: got .*WANDB_RUN"):
        parse(RECIPES["recipes.lora"], options, program="test", find_file=find_preset)


@pytest.mark.slow
def test_two_trials_of_the_demos_sweep_write_a_folder_and_a_run_each(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = read_sweep(ROOT / "recipes" / "sweeps" / "demo.yaml")
    for run_id, trial in zip(("trial-1", "trial-2"), trials(sweep), strict=False):
        trial |= {
            "train.steps": {"value": 2},
            "data.folder": {"value": str(pictures)},
            "validation.fraction": {"value": 0.2},
        }
        words = [word.replace("runs/sweep", str(tmp_path)) for word in agents_command(sweep, trial)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        given = {"PATH": path, "WANDB_RUN_ID": run_id, "WANDB_SWEEP_ID": "s1", "ACCELERATE_USE_CPU": "true"}
        ended = subprocess.run(
            [*words, "--preview.prompts"],
            cwd=ROOT,
            env=os.environ | given,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        (file,) = (tmp_path / run_id / "wandb").glob("offline-run-*/*.wandb")
        (run,) = [record.run for record in read_records(file) if record.HasField("run")][:1]
        assert (run.run_id, run.sweep_id) == (run_id, "s1")
        assert (tmp_path / run_id / "report.html").is_file()
