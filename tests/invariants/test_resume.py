import random
import signal
from pathlib import Path

import pytest

from tests.support.runs import (
    SUBJECT,
    UNCACHED,
    WITH_TEXT_ENCODER,
    Options,
    assert_same_end,
    completed,
    metrics,
    start,
    without_lora,
)

STEPS = 11
TWICE = ("lora", "full_ema", "textual_inversion_ema_bf16", "dreambooth_pictures")
"""Variants that are stopped by a signal and then killed; the others meet one of the two."""
FAST = ("lora", "textual_inversion_ema_bf16", "dreambooth_pictures", "full_bf16_stochastic", "autoencoder")
"""One variant for every method; `make test-all` runs the others too."""

VARIANTS: dict[str, tuple[str, Options]] = {
    "lora": ("lora", {"validation.fraction": 0.3, "validation.every": 3, "lora.dropout": 0.2}),
    "adamw8bit_accumulation": ("lora", {"optim.name": "adamw8bit", "train.accumulation": 2, "lora.rank": 64}),
    "text_encoder": ("lora", WITH_TEXT_ENCODER | {"optim.text_encoder_lr": 1e-3, "train.log_every": 4}),
    "uncached_augmented": ("lora", UNCACHED | {"data.crop": "random", "data.flip": True, "data.num_workers": 1}),
    "shaped_noise_and_errors": (
        "lora",
        {"loss.weighting": "soft_min_snr", "loss.error": "huber", "loss.offset_noise": 0.1, "loss.pyramid_noise": 0.5}
        | {"loss.input_perturbation": 0.1, "loss.nearest_noise": 3, "loss.min_timestep": 20, "train.accumulation": 2}
        | {"loss.timestep_bias": "content", "validation.fraction": 0.3, "validation.every": 3},
    ),
    "pissa_ema_bf16": ("lora", {"lora.init": "pissa", "train.ema_decay": 0.9, "train.gradient_checkpointing": True}),
    "dora_plus_convolutions": (
        "lora",
        {"lora.dora": True, "lora.conv": True, "lora.plus_ratio": 16, "lora.rank_pattern": ("attn2=2",)},
    ),
    "loha_prodigy": ("lora", {"lora.kind": "loha", "optim.name": "prodigy", "optim.lr": 1.0}),
    "lokr_adafactor": ("lora", {"lora.kind": "lokr", "optim.name": "adafactor"}),
    "oft_schedule_free": (
        "lora",
        {"lora.kind": "oft", "lora.rank": 16, "lora.block_size": 4, "optim.name": "adamw_schedule_free"}
        | {"validation.fraction": 0.3, "validation.every": 2},
    ),
    "full_ema": ("full", {"train.ema_decay": 0.9, "optim.lr": 1e-4, "optim.schedule": "cosine"}),
    "full_bf16_stochastic": (
        "full",
        {"optim.weights": "bf16_stochastic", "optim.name": "adamw8bit", "train.ema_decay": 0.9, "optim.lr": 1e-3},
    ),
    "full_bf16_kahan_in_backward": (
        "full",
        {"optim.weights": "bf16_kahan", "optim.in_backward": True, "train.max_grad_norm": 0.0, "optim.lr": 1e-3}
        | WITH_TEXT_ENCODER,
    ),
    "full_in_backward_patterns_host_average": (
        "full",
        {"optim.name": "adafactor", "optim.in_backward": True, "train.max_grad_norm": 0.0, "full.train": ("attn",)}
        | {"train.ema_decay": 0.9, "train.ema_device": "cpu"},
    ),
    "muon": ("full", {"optim.name": "muon", "optim.lr": 1e-3} | WITH_TEXT_ENCODER),
    "paged_adamw8bit": ("lora", {"optim.name": "paged_adamw8bit", "lora.rank": 64}),
    "lion8bit": ("lora", {"optim.name": "lion8bit", "optim.lr": 1e-3, "lora.rank": 64}),
    "autoencoder": ("pretrain", {"stage": "autoencoder", "autoencoder.steps": STEPS, "autoencoder.batch_size": 2}),
    "textual_inversion_ema_bf16": (
        "textual_inversion",
        {"tokens.names": ("<ink>", "<paper>"), "tokens.num_vectors": 2, "data.template": "{caption} <ink> <paper>"}
        | {"train.ema_decay": 0.9, "train.gradient_checkpointing": True, "data.caption_dropout": 0.5},
    ),
    "pivotal": (
        "lora",
        {"tokens.names": ("<ink>",), "tokens.lr": 1e-3, "data.template": "{caption} <ink>", "lora.dropout": 0.2}
        | {"validation.fraction": 0.3, "validation.every": 3},
    ),
    "pivotal_text_encoder": (
        "lora",
        WITH_TEXT_ENCODER | {"tokens.names": ("<ink>",), "data.template": "{caption} <ink>", "tokens.init": ("red",)},
    ),
    "dreambooth_pictures": ("dreambooth", SUBJECT | {"prior.num_pictures": 5, "prior.num_inference_steps": 2}),
    "dreambooth_prediction": (
        "dreambooth",
        SUBJECT | {"prior.kind": "prediction", "lora.dropout": 0.2, "validation.fraction": 0.3, "validation.every": 3},
    ),
    "dreambooth_full_prediction_text_encoder_steps": (
        "dreambooth",
        SUBJECT
        | WITH_TEXT_ENCODER
        | {"method": "full", "prior.kind": "prediction", "train.text_encoder_steps": 5, "optim.lr": 1e-4}
        | {"train.ema_decay": 0.9},
    ),
    "denoiser_and_text_encoder_ema": ("pretrain", {"stage": "denoiser", "optim.lr": 1e-3}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS]
)
def test_resuming_gives_the_same_weights_and_losses(name: str, tiny_run: Options, tmp_path: Path) -> None:
    recipe, options = VARIANTS[name]
    environment = {"ACCELERATE_MIXED_PRECISION": "bf16" if "bf16" in name else "no"}
    has_adapters = recipe == "lora" or (recipe == "dreambooth" and "method" not in options)
    own = tiny_run if has_adapters else without_lora(tiny_run)
    options = own | options | {"train.steps": STEPS, "optim.warmup_steps": 2}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    ended = completed(recipe, options | {"output.folder": straight}, tmp_path / "log", environment=environment)

    draw = random.Random(name)
    resumed_options = options | {"output.folder": broken}
    polite = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    once = [draw.choice([signal.SIGKILL, *polite])]
    for number in [draw.choice(polite), signal.SIGKILL] if name in TWICE else once:
        running = start(recipe, resumed_options, tmp_path / "log", environment=environment)
        lines = draw.randrange(1, 4) + len(metrics(broken))
        running.wait_until(lambda: len(metrics(broken)) >= lines)  # noqa: B023
        running.signal(number)
        ended = running.wait()
        assert ended.exit_code in (-9, 0) if number == signal.SIGKILL else ended.exit_code in (75, 0), ended.output
    ended = completed(recipe, resumed_options, tmp_path / "log", environment=environment)

    assert_same_end(straight, broken)
