from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.optim import OptimConfig
from finetune.config.outputs import OutputConfig, PreviewConfig
from finetune.config.pretrain import ArchitectureConfig, AutoencoderConfig, PretrainConfig, autoencoder_stage
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig

GOOD = PretrainConfig(DataConfig("pictures"), OutputConfig(Path("out")))

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"architecture": ArchitectureConfig(vae_channels=())}, "architecture.vae_channels"),
    ({"architecture": ArchitectureConfig(unet_channels=(64, 100))}, "architecture.unet_channels"),
    ({"architecture": ArchitectureConfig(unet_plain_levels=3)}, "architecture.unet_plain_levels"),
    ({"architecture": ArchitectureConfig(head_width=48)}, "architecture.head_width"),
    ({"architecture": ArchitectureConfig(text_width=20)}, "architecture.text_width"),
    ({"architecture": ArchitectureConfig(text_length=2)}, "architecture.text_length"),
    ({"architecture": ArchitectureConfig(vocabulary=500)}, "architecture.vocabulary"),
    ({"architecture": ArchitectureConfig(unet_layers=0)}, "architecture.unet_layers"),
    ({"architecture": ArchitectureConfig(beta_end=0.0001)}, "architecture.beta_start"),
    ({"autoencoder": AutoencoderConfig(steps=0)}, "autoencoder.steps"),
    ({"autoencoder": AutoencoderConfig(lr=0)}, "autoencoder.lr"),
    ({"autoencoder": AutoencoderConfig(ema_decay=1.0)}, "autoencoder.ema_decay"),
    ({"autoencoder": AutoencoderConfig(edge_weight=-1)}, "autoencoder.edge_weight"),
    ({"stage": "denoiser"}, "model.source"),
    ({"stage": "autoencoder"}, "model.source"),
    ({"model": ModelConfig("folder")}, "model.source"),
    ({"model": ModelConfig("folder"), "stage": "tokenizer"}, "model.source"),
    ({"train": LoopConfig()}, "train.text_encoder"),
    ({"cache": CacheConfig()}, "cache.text"),
    ({"data": DataConfig("pictures", resolution=66, bucket_step=66)}, "data.bucket_step"),
]


@pytest.mark.parametrize(("changes", "word"), WRONG, ids=[f"{word}-{n}" for n, (_, word) in enumerate(WRONG)])
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^{word}"):
        replace(GOOD, **changes)


def test_the_autoencoders_stage_has_its_own_steps_and_rate_and_is_stable() -> None:
    own = AutoencoderConfig(steps=7, batch_size=3, lr=0.5, ema_decay=None)
    others = {"optim": OptimConfig(schedule="cosine", text_encoder_lr=1e-4), "preview": PreviewConfig(("a cat",))}
    config = replace(GOOD, stage="denoiser", model=ModelConfig("folder"), autoencoder=own, **others)
    stage = autoencoder_stage(config)
    assert (stage.train.steps, stage.train.batch_size, stage.train.ema_decay) == (7, 3, None)
    assert (stage.optim.lr, stage.optim.schedule, stage.cache.latents) == (0.5, "cosine", False)
    assert stage.stage == "autoencoder" and stage.preview.prompts == ()
    assert autoencoder_stage(stage) == stage
