from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from finetune.batches.store import fingerprint
from finetune.config.pretrain import ArchitectureConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.scratch import new_pipeline, new_tokenizer, save_new_pipeline
from tests.tiny.sd import CAPTIONS

SMALL = ArchitectureConfig(
    vae_channels=(8, 16), unet_channels=(16, 32), head_width=16, text_width=32, text_length=12, vocabulary=560
)


def test_a_new_pipeline_loads_as_stable_diffusion_and_draws(tmp_path: Path) -> None:
    said = save_new_pipeline(SMALL, CAPTIONS, 32, 0, tmp_path / "model")
    components = StableDiffusion().load(ModelSource(str(tmp_path / "model")))
    count = sum(weight.numel() for weight in components.denoiser.parameters())
    assert f"U-Net {count:,}" in said
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red circle", num_inference_steps=2).images[0].size == (32, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_it_is_a_function_of_options_captions_and_seed() -> None:
    state = torch.get_rng_state()
    first, second, other = (new_pipeline(SMALL, CAPTIONS, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for part in ("unet", "vae", "text_encoder"):
        prints = [fingerprint(getattr(pipeline, part)) for pipeline in (first, second, other)]
        assert prints[0] == prints[1] != prints[2]
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_the_tokenizer_knows_the_words_of_the_captions_and_reads_any_other() -> None:
    tokenizer = new_tokenizer(CAPTIONS, 2000, 12)
    pieces = tokenizer.tokenize("A red circle")
    assert pieces == ["a</w>", "red</w>", "circle</w>"]
    for text in ("a zebra on the moon", "naïve café", "日本"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids).strip() == text
    limited = new_tokenizer(CAPTIONS, 540, 12)
    assert len(limited) <= 540 < len(tokenizer)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_level_of_the_vae_after_the_first_halves_the_image(levels: int) -> None:
    config = replace(SMALL, vae_channels=(8,) * levels)
    assert config.pixel_multiple == 2 ** (levels - 1)
    pipeline = new_pipeline(config, CAPTIONS, 32, 0)
    assert StableDiffusion().pixel_multiple(pipeline.vae) == config.pixel_multiple
    assert pipeline.unet.config["sample_size"] * config.pixel_multiple == 32
