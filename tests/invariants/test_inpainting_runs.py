"""Whole runs on an inpainting checkpoint: caches and kills change no bit, and the exports are inpainting models."""

import signal
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from tests.runs import Options, differing, final_state, losses, metrics, run, start

OWN: Options = {
    "inpaint.num_masks": 2,
    "data.flip": True,
    "validation.fraction": 0.2,
    "validation.every": 3,
    "train.steps": 7,
}


@pytest.fixture
def options(tiny_run: Options, tiny_inpainting_model: Path) -> Options:
    return tiny_run | OWN | {"model.source": tiny_inpainting_model}


def test_a_run_is_the_same_uncached_and_killed_and_resumed(options: Options, tmp_path: Path) -> None:
    straight, uncached, broken = (options | {"output.folder": tmp_path / name} for name in ("a", "b", "c"))
    ended = run("lora", straight, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    ended = run("lora", uncached | {"cache.latents": False, "cache.text": False}, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert differing(final_state(tmp_path / "a"), final_state(tmp_path / "b")) == []
    assert losses(tmp_path / "a") == losses(tmp_path / "b")

    running = start("lora", broken | {"checkpoint.every": 2}, tmp_path / "log")
    running.wait_until(lambda: len(metrics(tmp_path / "c")) >= 3)
    running.signal(signal.SIGKILL)
    running.wait()
    ended = run("lora", broken, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert differing(final_state(tmp_path / "a"), final_state(tmp_path / "c")) == []
    assert losses(tmp_path / "a") == losses(tmp_path / "c")


def test_full_fine_tuning_with_text_encoder_exports_an_inpainting_pipeline(options: Options, tmp_path: Path) -> None:
    options = {key: value for key, value in options.items() if not key.startswith("lora.")} | {
        "train.steps": 2,
        "train.text_encoder": True,
        "cache.text": False,
        "optim.lr": 1e-4,
        "preview.prompts": ("a red circle",),
        "preview.num_inference_steps": 2,
        "output.folder": tmp_path / "out",
    }
    ended = run("full", options, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert Image.open(tmp_path / "out" / "previews" / "step_000002_prompt00_seed0.png").size == (64, 64)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out" / "export", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    drawn = pipeline("a cross", image=picture, mask_image=mask, width=64, height=64, num_inference_steps=2).images[0]
    assert drawn.size == (64, 64)


def test_options_of_inpainting_are_refused_for_other_checkpoints(tiny_run: Options, tmp_path: Path) -> None:
    ended = run("lora", tiny_run | {"inpaint.num_masks": 2, "train.steps": 1}, tmp_path / "log")
    assert ended.exit_code == 1 and "is no inpainting checkpoint" in ended.output, ended.output
    assert "Traceback" not in ended.output
