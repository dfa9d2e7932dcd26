import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from tests.support.runs import (
    BF16,
    WITH_TEXT_ENCODER,
    Options,
    assert_same_end,
    completed,
    differing,
    final_state,
    metrics,
)
from tests.tiny.sd import save_pictures
from tests.unit.models.loading.test_single_file import write_whole


def test_the_resolved_config_names_the_family(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | {"train.steps": 2, "lora.targets": ("to_q",), "checkpoint.every": 1}
    first = completed("lora", options, tmp_path / "log")
    assert "model.family: sd (Stable Diffusion" in first.output, first.output
    assert "family: sd\n" in (tmp_path / "out" / "config.yaml").read_text()
    again = completed("lora", options, tmp_path / "log")
    assert "is finished" in again.output, again.output
    longer = completed("lora", options | {"train.steps": 3}, tmp_path / "log")
    assert "at step 2 of 3" in longer.output and "changed" not in longer.output, longer.output


@pytest.mark.slow
def test_a_run_from_a_single_file_is_the_run_from_its_folder(tiny_run: Options, tmp_path: Path) -> None:
    whole = write_whole(tmp_path)
    options = tiny_run | {"train.steps": 4, "checkpoint.every": 2, "train.batch_size": 1}
    from_file = options | {"model.source": whole.location, "model.config": whole.config}
    from_folder = options | {"model.source": tmp_path / "folder", "output.folder": tmp_path / "other"}
    first = completed("lora", from_file, tmp_path / "log")
    assert "model.family: sd (Stable Diffusion 1.x and 2.x), as" in first.output
    completed("lora", from_folder, tmp_path / "log")
    assert_same_end(tmp_path / "out", tmp_path / "other")
    with safetensors.safe_open(tmp_path / "out" / "export" / "out.safetensors", framework="pt") as file:
        assert file.metadata()["ss_sd_model_name"] == "model.safetensors"

    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step_000004")
    shutil.rmtree(tmp_path / "out" / "export")
    (tmp_path / "out" / "run.json").unlink()
    again = completed("lora", from_file, tmp_path / "log")
    assert "at step 2 of 4" in again.output, again.output
    assert differing(final_state(tmp_path / "out"), final_state(tmp_path / "other")) == []


def train(options: Options, log: Path) -> tuple[str, tuple[int, int]]:
    """Return what a run prints, and its rank and steps."""
    ended = completed("lora", options, log)
    saved = yaml.safe_load((Path(str(options["output.folder"])) / "config.yaml").read_text())
    return ended.output, (saved["lora"]["rank"], saved["train"]["steps"])


def test_a_run_keeps_its_numbers_when_images_are_added(tiny_run: Options, tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", count=9)
    chosen = {key: value for key, value in tiny_run.items() if key not in ("lora.rank", "train.steps")}
    chosen |= {"goal": "style", "data.folder": folder, "validation.fraction": 0, "optim.warmup_steps": 0}
    output, numbers = train(chosen | {"train.steps": 2}, tmp_path / "first")
    assert numbers == (8, 2) and "fewer than 10 images" in output
    assert "is finished" in train(chosen, tmp_path / "same")[0]  # the steps of the run, though they are not given
    save_pictures(folder, count=12)
    output, numbers = train(chosen | {"train.steps": 3, "data.allow_change": True}, tmp_path / "later")
    assert numbers == (8, 3) and "kept from the run; proposed would be 16" in output
    saved, other = tmp_path / "out" / "config.yaml", tmp_path / "other"
    _, numbers = train({"config": saved, "output.folder": other}, tmp_path / "again")
    assert numbers == (8, 3) and len(metrics(other)) > 0


def test_a_run_of_epochs_keeps_its_steps_and_more_epochs_continue_it(tiny_run: Options, tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", count=6)
    chosen = {key: value for key, value in tiny_run.items() if key != "train.steps"}
    chosen |= {"data.folder": folder, "validation.fraction": 0, "optim.warmup_steps": 0, "train.batch_size": 2}
    once = chosen | {"train.epochs": 1}
    output = completed("lora", once, tmp_path / "log").output
    assert "train.epochs 1: 3 steps; 6 images in a pass, 2 in a step" in output
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["train"]
    assert (saved["epochs"], saved["steps"]) == (1.0, 3)
    save_pictures(folder, count=9)
    assert "is finished (3 steps)" in completed("lora", once, tmp_path / "again").output
    more = completed("lora", chosen | {"train.epochs": 2, "data.allow_change": True}, tmp_path / "more").output
    assert "train.epochs 2: 9 steps; 9 images" in more and "at step 3 of 9" in more


@pytest.fixture
def encoder_run(tiny_run: Options) -> Options:
    return tiny_run | WITH_TEXT_ENCODER | {"checkpoint.every": 100, "lora.rank": 2}


@pytest.mark.slow
def test_a_run_leaves_the_encoder_as_a_shorter_run_left_it(encoder_run: Options, tmp_path: Path) -> None:
    """Three of five steps train the encoder, as in the shorter run."""
    short = encoder_run | {"output.folder": tmp_path / "short", "train.steps": 3}
    long = encoder_run | {"output.folder": tmp_path / "long", "train.steps": 5, "train.text_encoder_steps": 3}
    for options in (short, long):
        completed("lora", options, tmp_path / "log")
    first, second = final_state(tmp_path / "short"), final_state(tmp_path / "long")
    encoder = [name for name in first if name.startswith("trained.text_encoders.")]
    assert encoder
    assert all(torch.equal(first[name], second[name]) for name in encoder)
    denoiser = [name for name in first if name.startswith("trained.denoiser.")]
    assert all(not torch.equal(first[name], second[name]) for name in denoiser if "lora_B" in name)
    assert [row["lr_text_encoder"] for row in metrics(tmp_path / "long")] == [1e-2, 1e-2, 1e-2, 0.0, 0.0]
    assert {float(second[name]) for name in second if name.endswith(".step")} == {3.0, 5.0}


def test_adapters_averages_and_moments_stay_float32_under_bf16(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | WITH_TEXT_ENCODER | {"train.steps": 2, "train.ema_decay": 0.9}
    completed("lora", options, tmp_path / "log", environment=BF16)
    state = final_state(tmp_path / "out")
    for part in ("trained.denoiser.", "trained.text_encoders.", "ema.denoiser.", "optimizer."):
        assert any(name.startswith(part) for name in state)
    moments = {name for name in state if name.endswith(("exp_avg", "exp_avg_sq"))}
    assert len(moments) == 2 * sum(name.startswith("trained.") for name in state)
    kept = moments | {name for name in state if name.startswith(("trained.", "ema."))}
    assert {state[name].dtype for name in kept} == {torch.float32}
