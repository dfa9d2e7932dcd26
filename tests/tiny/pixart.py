"""A tiny PixArt-Sigma pipeline of the real classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from tests.tiny.sd import SIZES, build_vae
from tests.tiny.t5 import build_t5, train_t5_tokenizer


def save_pixart(folder: Path) -> Path:
    build_pixart().save_pretrained(folder)
    return folder


def build_pixart() -> PixArtSigmaPipeline:
    """Return the pipeline; the global random state is left as it was."""
    tokenizer = train_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = build_t5(tokenizer)
        sizes: dict[str, Any] = {"sample_size": 16, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4}
        sizes |= {"out_channels": 8, "num_layers": 1, "cross_attention_dim": 16, "caption_channels": 32}
        transformer = PixArtTransformer2DModel(**sizes)
        vae = build_vae(SIZES["tiny"])
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipeline = PixArtSigmaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
