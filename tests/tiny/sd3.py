"""Tiny pipelines of Stable Diffusion 3 and 3.5, from a seed."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny.sd import build_shifted_vae, clip_config, train_tokenizer
from tests.tiny.t5 import build_t5, train_t5_tokenizer

CLIP_WIDTHS = (16, 24)
T5_WIDTH = 48
"""Wider than both of CLIP together, as in the real models."""


def save_pipeline(folder: Path, *, seed: int = 0, t5: bool = True, version35: bool = False) -> Path:
    """Write a tiny `StableDiffusion3Pipeline` to `folder`. Transformer and T5 are several files, as in 3.5 large."""
    build_pipeline(seed=seed, t5=t5, version35=version35).save_pretrained(folder, max_shard_size="100KB")
    return folder


def build_pipeline(*, seed: int = 0, t5: bool = True, version35: bool = False) -> StableDiffusion3Pipeline:
    """Build a tiny pipeline of version 3, or with `version35` of 3.5.

    3.5 medium has normalized queries and keys, and a first block that attends twice.
    """
    tokenizers = train_tokenizer(), train_tokenizer(padding="!")
    t5_tokenizer = train_t5_tokenizer() if t5 else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = build_clip(CLIP_WIDTHS[0], tokenizers[0], "quick_gelu")
        second = build_clip(CLIP_WIDTHS[1], tokenizers[1], "gelu")
        transformer = build_transformer(version35=version35)
        vae = build_shifted_vae(scaling_factor=1.5305, shift_factor=0.0609)
        encoder_3 = build_t5(t5_tokenizer, width=T5_WIDTH) if t5_tokenizer else None
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizers[0],
        text_encoder_2=second,
        tokenizer_2=tokenizers[1],
        text_encoder_3=encoder_3,  # pyright: ignore[reportArgumentType]  (optional in diffusers, typed as required)
        tokenizer_3=t5_tokenizer,  # pyright: ignore[reportArgumentType]
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_transformer(*, version35: bool) -> SD3Transformer2DModel:
    """Return a transformer whose modules carry the names of the real ones."""
    sizes: dict[str, Any] = {"sample_size": 32, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": T5_WIDTH}
    sizes |= {"caption_projection_dim": 16, "pooled_projection_dim": sum(CLIP_WIDTHS), "pos_embed_max_size": 32}
    version = {"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if version35 else {}
    return SD3Transformer2DModel(**sizes, **version)


def build_clip(width: int, tokenizer: CLIPTokenizer, activation: str) -> CLIPTextModelWithProjection:
    """Build a CLIP text model of three layers. So its last layer but one is not the first."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    return CLIPTextModelWithProjection(clip_config(tokenizer, activation, **sizes))
