"""A run continues only on the model that it began with."""

import json
import shutil
from pathlib import Path

import safetensors.torch

from tests.faults.conftest import assert_refused, assert_same_end
from tests.faults.test_damaged_checkpoints import seal
from tests.support.runs import Options, run

EACH_TIME = (".lock", "run.log")
"""Files of the run folder that every start writes to."""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in EACH_TIME}


def test_another_vae_and_scheduler_are_refused_and_nothing_is_written(interrupted: Options, tmp_path: Path) -> None:
    model = shutil.copytree(Path(str(interrupted["model.source"])), tmp_path / "model")
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    scaled = {name: value * 1.05 for name, value in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file(scaled, weights, metadata={"format": "pt"})
    scheduler = model / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    before = contents(tmp_path / "out")
    ended = run("lora", interrupted | {"model.source": model}, tmp_path / "log")
    assert_refused(ended.exit_code, ended.output, "model.source", "step_000004", "VAE", "beta_end 0.012 -> 0.02")
    assert contents(tmp_path / "out") == before
    assert "beta_end 0.012 -> 0.02" in (tmp_path / "out" / "run.log").read_text()


def test_a_checkpoint_without_the_model_is_continued_with_one_warning(
    interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    """As version 0.1 wrote it."""
    for checkpoint in (tmp_path / "out" / "checkpoints").iterdir():
        state = json.loads((checkpoint / "state.json").read_text())
        del state["model"]
        (checkpoint / "state.json").write_text(json.dumps(state))
        seal(checkpoint)
    ended = run("lora", interrupted, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert ended.output.count("version 0.1") == 1
    assert_same_end(tmp_path / "out", straight)
