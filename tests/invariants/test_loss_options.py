from pathlib import Path

import pytest

from tests.support.runs import Options, assert_close_metrics, completed, differing, final_state, metrics, refused

SHAPED: Options = {
    "loss.weighting": "p2",
    "loss.error": "huber",
    "loss.huber_schedule": "exponential",
    "loss.offset_noise": 0.1,
    "loss.pyramid_noise": 0.5,
    "loss.input_perturbation": 0.1,
    "loss.nearest_noise": 3,
    "loss.max_timestep": 800,
    "loss.timestep_bias": "style",
}


@pytest.fixture
def options(tiny_run: Options) -> Options:
    return tiny_run | {"train.steps": 4, "validation.fraction": 0.3, "validation.every": 2, "train.batch_size": 4}


def finished(options: Options, folder: Path) -> Path:
    completed("lora", options | {"output.folder": folder}, folder.with_suffix(".log"))
    return folder


@pytest.mark.slow
def test_validation_losses_of_runs_with_other_losses_and_noise_can_be_compared(
    options: Options, tmp_path: Path
) -> None:
    plain, shaped = finished(options, tmp_path / "plain"), finished(options | SHAPED, tmp_path / "shaped")
    assert metrics(plain)[1]["validation/base_loss"] == metrics(shaped)[1]["validation/base_loss"]
    assert metrics(plain)[0]["loss"] != metrics(shaped)[0]["loss"]
    assert len(differing(final_state(plain), final_state(shaped))) > 0


@pytest.mark.slow
def test_shaped_noise_does_not_depend_on_the_batch_it_is_drawn_in(options: Options, tmp_path: Path) -> None:
    whole = finished(options | SHAPED, tmp_path / "whole")
    parts = finished(options | SHAPED | {"train.batch_size": 2, "train.accumulation": 2}, tmp_path / "parts")
    keys = ("step", "loss", "lr", "grad_norm", "validation/loss", "images_seen")
    assert_close_metrics(whole, parts, *keys, rel=1e-4)


def test_a_timestep_beyond_the_schedule_is_refused_before_the_model_loads(options: Options, tmp_path: Path) -> None:
    words = "error: loss.max_timestep: got 1000"
    refused("lora", options | {"loss.max_timestep": 1000}, tmp_path / "log", words)


def test_the_weight_of_the_last_timestep_at_zero_terminal_snr_is_warned_of(
    options: Options, tiny_v_model: Path, tmp_path: Path
) -> None:
    at_zero = options | {"model.source": tiny_v_model, "loss.zero_terminal_snr": True, "train.steps": 1}
    ended = completed("lora", at_zero | {"loss.weighting": "debiased"}, tmp_path / "log")
    assert "loss.weighting debiased" in ended.output and "--loss.weighting none" in ended.output
