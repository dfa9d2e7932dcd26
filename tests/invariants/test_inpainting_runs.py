from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from tests.support.runs import (
    PREVIEWS,
    UNCACHED,
    WITH_TEXT_ENCODER,
    Options,
    completed,
    differing,
    final_state,
    refused,
    same_uncached_and_killed,
    without_lora,
)

OWN: Options = {"inpaint.num_masks": 2, "data.flip": True, "validation.fraction": 0.2, "validation.every": 3}


@pytest.fixture
def options(tiny_run: Options, tiny_inpainting_model: Path) -> Options:
    return tiny_run | OWN | {"model.source": tiny_inpainting_model, "train.steps": 7}


@pytest.mark.slow
def test_a_run_is_the_same_uncached_and_killed_and_resumed(options: Options, tmp_path: Path) -> None:
    same_uncached_and_killed(options, UNCACHED, tmp_path)


def test_full_fine_tuning_with_text_encoder_exports_an_inpainting_pipeline(options: Options, tmp_path: Path) -> None:
    own = WITH_TEXT_ENCODER | PREVIEWS | {"train.steps": 2, "optim.lr": 1e-4}
    completed("full", without_lora(options) | own, tmp_path / "log")
    assert Image.open(tmp_path / "out" / "previews" / "step_000002_prompt00_seed0.png").size == (64, 64)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out" / "export", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    drawn = pipeline("a cross", image=picture, mask_image=mask, width=64, height=64, num_inference_steps=2).images[0]
    assert drawn.size == (64, 64)


@pytest.mark.slow
def test_new_tokens_and_priors_are_learned_on_an_inpainting_checkpoint(options: Options, tmp_path: Path) -> None:
    shared = without_lora(options) | {"train.steps": 2}
    tokens = {"tokens.names": ("<ink>",), "data.template": "{caption} <ink>", "optim.lr": 1e-3}
    subject = {"instance.prompt": "a zkw circle", "prior.prompt": "a circle", "prior.kind": "prediction"}
    for recipe, own in (("textual_inversion", tokens), ("dreambooth", subject)):
        for cached in (True, False):
            out = tmp_path / f"{recipe}-{cached}"
            own = own | {"cache.latents": cached, "cache.text": cached, "output.folder": out}
            completed(recipe, shared | own, tmp_path / "log")
        assert differing(final_state(tmp_path / f"{recipe}-True"), final_state(tmp_path / f"{recipe}-False")) == []


def test_options_of_inpainting_are_refused_for_other_checkpoints(tiny_run: Options, tmp_path: Path) -> None:
    refused("lora", tiny_run | {"inpaint.num_masks": 2}, tmp_path / "log", "is not an inpainting model")
