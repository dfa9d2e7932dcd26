import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from tests.support.damage import change_weight
from tests.support.jobs import completed_job, ends, start_job
from tests.support.runs import (
    BF16,
    WITH_TEXT_ENCODER,
    Options,
    assert_close_metrics,
    assert_same_end,
    completed,
    differing,
    final_state,
    losses,
    metrics,
    refused,
    without_lora,
)


@pytest.fixture
def full_run(tiny_run: Options) -> Options:
    return without_lora(tiny_run) | {"train.steps": 5, "optim.lr": 1e-3, "train.max_grad_norm": 0.0}


def finished(options: Options, folder: Path, environment: dict[str, str] | None = None) -> str:
    log = folder.with_suffix(".log")
    return completed("full", options | {"output.folder": folder}, log, environment=environment).output


@pytest.mark.parametrize("precision", ["no", pytest.param("bf16", marks=pytest.mark.slow)])
def test_updates_in_the_backward_pass_give_the_same_bits(precision: str, full_run: Options, tmp_path: Path) -> None:
    """With recomputed activations, a weight is needed late in the backward pass."""
    options = full_run | WITH_TEXT_ENCODER | {"train.gradient_checkpointing": True, "optim.text_encoder_lr": 1e-4}
    environment = {"ACCELERATE_MIXED_PRECISION": precision}
    finished(options, tmp_path / "usual", environment)
    finished(options | {"optim.in_backward": True}, tmp_path / "early", environment)
    assert_same_end(tmp_path / "usual", tmp_path / "early")
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path / "early"))


@pytest.mark.slow
def test_an_average_in_host_memory_gives_the_same_bits(full_run: Options, tmp_path: Path) -> None:
    options = full_run | {"train.ema_decay": 0.9, "validation.fraction": 0.3, "validation.every": 2}
    finished(options, tmp_path / "beside")
    finished(options | {"train.ema_device": "cpu"}, tmp_path / "host")
    assert_same_end(tmp_path / "beside", tmp_path / "host")


@pytest.mark.parametrize("weights", ["bf16_stochastic", "bf16_kahan"])
def test_bfloat16_weights_learn_and_are_exported_as_they_are(weights: str, full_run: Options, tmp_path: Path) -> None:
    options = full_run | {"optim.weights": weights, "output.dtype": "bf16", "optim.name": "adamw8bit"}
    options |= {"optim.in_backward": True, "train.steps": 4}
    finished(options, tmp_path / "out", BF16)
    state = final_state(tmp_path / "out")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "export" / "unet", torch_dtype=torch.bfloat16)
    untouched = UNet2DConditionModel.from_pretrained(Path(str(options["model.source"])) / "unet").bfloat16()
    moved = 0
    for name, weight in unet.state_dict().items():
        assert state[f"trained.denoiser.{name}"].dtype == torch.bfloat16
        assert torch.equal(weight, state[f"trained.denoiser.{name}"])
        moved += not torch.equal(weight, untouched.state_dict()[name])
    assert moved > len(unet.state_dict()) // 2


def test_the_average_of_bfloat16_weights_is_kept_and_exported_in_float32(full_run: Options, tmp_path: Path) -> None:
    options = full_run | {"optim.weights": "bf16_stochastic", "train.ema_decay": 0.9, "train.ema_device": "cpu"}
    finished(options | {"output.dtype": "fp32", "train.steps": 3}, tmp_path / "out", BF16)
    state = final_state(tmp_path / "out")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "export" / "unet")
    for name, weight in unet.state_dict().items():
        assert torch.equal(weight, state[f"ema.denoiser.{name}"])
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in unet.state_dict().values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_only_what_patterns_choose_moves(precision: str, full_run: Options, tmp_path: Path) -> None:
    options = full_run | {"full.train": ("attn2", r"text_encoders\.0"), "full.freeze": ("embeddings", "to_k")}
    options |= WITH_TEXT_ENCODER | {"train.steps": 2, "output.dtype": "fp32"}
    output = finished(options, tmp_path / "out", {"ACCELERATE_MIXED_PRECISION": precision})
    trained = {name for name in final_state(tmp_path / "out") if name.startswith("trained.")}
    assert trained and not any("embeddings" in name or "to_k" in name for name in trained)
    base = Path(str(options["model.source"]))
    for part, prefix, file in (
        ("unet", "trained.denoiser.", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "trained.text_encoders.0.", "model.safetensors"),
    ):
        before = safetensors.torch.load_file(base / part / file)
        after = safetensors.torch.load_file(tmp_path / "out" / "export" / part / file)
        for name, weight in after.items():
            if f"{prefix}{name}" not in trained and precision == "no":
                assert torch.equal(weight, before[name]), name
        assert any(not torch.equal(weight, before[name]) for name, weight in after.items())
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    numbers = sum(value.numel() for name, value in final_state(tmp_path / "out").items() if name in trained)
    assert card["parameters"]["trained"] == numbers and f"{numbers:,} parameters are trained" in output
    assert f"{numbers:,} trained" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"conv_in.weight": math.nan}, "The weights were not updated"),
        # The prediction is 0, whatever the large weights are, but the gradient goes through them.
        ({"conv_norm_out.weight": 0.0, "conv_norm_out.bias": 0.0, "conv_out.weight": 1e30}, "Weights were updated"),
    ],
)
def test_numbers_that_are_not_finite_stop_a_run_with_updates_in_the_backward_pass(
    damage: dict[str, float], words: str, full_run: Options, tmp_path: Path
) -> None:
    """A loss stops it before updates, a gradient after; neither is saved."""
    model = shutil.copytree(Path(str(full_run["model.source"])), tmp_path / "model")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    for name, value in damage.items():
        change_weight(file, name, partial(Tensor.fill_, value=value))
    options = full_run | {"model.source": model, "optim.in_backward": True}
    refused("full", options, tmp_path / "log", words, "loss of step 1 ")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optim.weights": "bf16_kahan"}, ("optim.weights", "mixed_precision bf16")),
        ({"full.train": ("attn2", "(")}, ("full.train", "regular expression")),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: Options, words: tuple[str, ...], full_run: Options, tmp_path: Path
) -> None:
    no_model = {"model.source": tmp_path / "absent"}  # so nothing was loaded before
    assert "absent" not in refused("full", full_run | options | no_model, tmp_path / "log", *words)


def test_changed_weights_or_patterns_are_not_resumed(full_run: Options, tmp_path: Path) -> None:
    finished(full_run | {"train.steps": 4}, tmp_path / "out")
    for changes, environment in (({"optim.weights": "bf16_kahan"}, BF16), ({"full.train": ("attn2",)}, {})):
        options = full_run | changes | {"train.steps": 6}
        refused("full", options, tmp_path / "log", "cannot change within a run", environment=environment)


@pytest.mark.slow
def test_two_processes_hold_the_same_rounded_weights_and_resume(full_run: Options, tmp_path: Path) -> None:
    options = full_run | {"optim.weights": "bf16_stochastic", "optim.name": "adamw8bit", "checkpoint.every": 2}
    options |= {"checkpoint.keep": 5, "train.max_grad_norm": 1.0, "train.batch_size": 4}
    completed_job("full", options, tmp_path / "logs", environment=BF16)
    state, rows = final_state(tmp_path / "out"), losses(tmp_path / "out")
    for step in ("step_000004", "step_000005"):
        shutil.rmtree(tmp_path / "out" / "checkpoints" / step)
    (tmp_path / "out" / "run.json").unlink()
    assert "at step 2 of 5" in completed_job("full", options, tmp_path / "logs", environment=BF16)
    assert differing(state, final_state(tmp_path / "out")) == []
    assert losses(tmp_path / "out") == rows
    one = options | {"output.folder": tmp_path / "one", "cache.folder": tmp_path / "cache"}
    finished(one, tmp_path / "one", BF16)
    assert_close_metrics(tmp_path / "one", tmp_path / "out", "loss", rel=2e-2)
    early = options | {"optim.in_backward": True, "train.max_grad_norm": 0.0, "output.folder": tmp_path / "early"}
    for ended in ends(start_job("full", early, tmp_path / "logs", environment=BF16)):
        assert ended.exit_code == 1, ended.output
    assert "2 processes" in (tmp_path / "logs" / "log0").read_text()
