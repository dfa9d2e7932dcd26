import json
import shutil
from pathlib import Path

from tests.faults.conftest import contents
from tests.faults.test_damaged_checkpoints import seal
from tests.support.damage import change_json, change_weight
from tests.support.runs import Options, assert_same_end, completed, refused


def test_another_vae_and_scheduler_are_refused_and_nothing_is_written(interrupted: Options, tmp_path: Path) -> None:
    model = shutil.copytree(Path(str(interrupted["model.source"])), tmp_path / "model")
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    change_weight(file, "encoder.conv_in.weight", lambda weight: weight.mul_(1.05))
    change_json(model / "scheduler" / "scheduler_config.json", beta_end=0.02)
    before = contents(tmp_path / "out")
    words = ("model.source", "step_000004", "VAE", "beta_end 0.012 -> 0.02")
    refused("lora", interrupted | {"model.source": model}, tmp_path / "log", *words)
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
    ended = completed("lora", interrupted, tmp_path / "log")
    assert ended.output.count("version 0.1") == 1
    assert_same_end(tmp_path / "out", straight)
