import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.support.jobs import completed_job
from tests.support.launch import LAUNCH, on_two_processes, succeeded
from tests.support.runs import (
    TINY,
    Options,
    assert_close_metrics,
    completed,
    differing,
    final_state,
    flags,
    losses,
    metrics,
    without_lora,
)
from tests.tiny.sd import save_pictures, save_pipeline


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    options = TINY | {
        "model.source": save_pipeline(folder / "model", size="micro"),
        "data.folder": save_pictures(folder / "pictures", count=12, size=64, aspects=(1.0, 1.5)),
        "output.folder": folder / "out",
        "cache.folder": folder / "cache",
        "train.steps": 6,
        "optim.lr": 1e-3,
        "validation.fraction": 0.25,
        "validation.every": 3,
        "preview.prompts": ("a red circle", "a blue square"),
        "preview.every": 3,
        "preview.num_inference_steps": 2,
        "checkpoint.every": 3,
        "evaluate.num_inference_steps": 1,
        "evaluate.grid.num_prompts": 2,
        "evaluate.grid.num_seeds": 2,
        "evaluate.strengths": (),
        "tracking.names": ("wandb",),
    }
    preset = "recipes/configs/sd15_lora_style.yaml"
    succeeded([*LAUNCH, "-m", "recipes.lora", "--config", preset, "--optim.warmup_steps", "1", *flags(options)])
    return folder


def test_a_run_leaves_everything_the_contract_names(lora_run: Path) -> None:
    out = lora_run / "out"
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4, 5, 6]
    assert {"step", "loss", "lr", "grad_norm", "images_per_second"} <= metrics(out)[0].keys()
    assert "validation/loss" in metrics(out)[2]
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step_000003", "step_000006"}
    assert {path.name for path in (out / "export").iterdir()} == {"pytorch_lora_weights.safetensors", "out.safetensors"}
    assert json.loads((out / "data_card.json").read_text())["num_validation"] == 3
    log = (out / "run.log").read_text()
    assert log.startswith("=== ") and "--train.steps 6" in log.splitlines()[0]
    assert "step 6/6: loss" in log and f"Report: {out / 'report.html'}" in log
    assert (out / "report.html").stat().st_size > 1000
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    previews = {path.name for path in (out / "previews").glob("*.png")}
    assert {f"step_00000{step}_prompt0{number}_seed0.png" for step in (0, 3, 6) for number in (0, 1)} <= previews


@pytest.mark.slow
def test_the_saved_config_relaunches_the_same_run(lora_run: Path) -> None:
    out = lora_run / "out"
    same = ["-m", "recipes.lora", "--config", str(out / "config.yaml")]
    assert "finished" in succeeded(same)
    succeeded([*same, "--output.folder", str(lora_run / "again"), "--tracking.names"])
    assert differing(final_state(out), final_state(lora_run / "again")) == []


def test_the_preview_is_what_the_exported_file_draws(lora_run: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(lora_run / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(lora_run / "out" / "export")
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline("a red circle", 64, 64, 2, guidance_scale=7.5, generator=generator).images[0]
    preview = Image.open(lora_run / "out" / "previews" / "step_000006_prompt00_seed0.png")
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(preview, dtype=int)).max() <= 2


def test_two_processes_equal_one_and_resume_bit_for_bit(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | {"train.steps": 5, "data.flip": True, "validation.fraction": 0.3, "validation.every": 2}
    options |= {"checkpoint.every": 2, "checkpoint.keep": 5}
    options |= {"preview.prompts": ("a red circle",), "preview.num_inference_steps": 1}  # nothing for the second one
    one = options | {"output.folder": tmp_path / "one", "train.batch_size": 4}
    two = options | {"output.folder": tmp_path / "two", "cache.folder": tmp_path / "cache"}
    completed("lora", one, tmp_path / "log")
    on_two_processes("lora", two)
    assert_close_metrics(tmp_path / "one", tmp_path / "two", "loss", "grad_norm", "validation/loss", rel=1e-4)
    before = [tmp_path / name / "previews" / "step_000000_prompt00_seed0.png" for name in ("one", "two")]
    assert before[0].read_bytes() == before[1].read_bytes()
    first, second = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    for name in (name for name in first if name.startswith("trained.")):
        torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-4)

    straight_losses = losses(tmp_path / "two")
    for step in ("step_000004", "step_000005"):  # as if the job had been killed before step 4 was saved
        shutil.rmtree(tmp_path / "two" / "checkpoints" / step)
    (tmp_path / "two" / "run.json").unlink()
    assert "at step 2 of 5" in completed_job("lora", two | {"train.batch_size": 4}, tmp_path / "logs")
    assert differing(second, final_state(tmp_path / "two")) == []
    assert losses(tmp_path / "two") == straight_losses


@pytest.mark.slow
def test_full_fine_tuning_exports_a_pipeline(tiny_run: Options, tiny_v_model: Path, tmp_path: Path) -> None:
    options = without_lora(tiny_run)
    options |= {"model.source": tiny_v_model, "train.steps": 3, "train.ema_decay": 0.99, "optim.lr": 1e-4}
    options |= {"loss.zero_terminal_snr": True, "output.dtype": "fp32"}
    succeeded(["-m", "recipes.full", *flags(options)])
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "export", safety_checker=None)
    base = StableDiffusionPipeline.from_pretrained(tiny_v_model, safety_checker=None)
    state = final_state(tmp_path / "out")
    weights, untouched = pipeline.unet.state_dict(), base.unet.state_dict()
    assert all(torch.equal(value, state[f"ema.denoiser.{name}"]) for name, value in weights.items())
    assert any(not torch.equal(value, untouched[name]) for name, value in weights.items())
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
