"""Tiny pipelines of FLUX.1, of the real classes, built from a seed."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tests.tiny.sd import SIZES, build_shifted_vae, build_text_encoder, train_tokenizer
from tests.tiny.t5 import build_t5, train_t5_tokenizer

T5_WIDTH = 24


def save_pipeline(folder: Path, *, seed: int = 0, guidance: bool = True) -> Path:
    """Write a tiny `FluxPipeline` to `folder`. Transformer and T5 are several files, as in the real one."""
    build_pipeline(seed=seed, guidance=guidance).save_pretrained(folder, max_shard_size="60KB")
    return folder


def build_pipeline(*, seed: int = 0, guidance: bool = True) -> FluxPipeline:
    """Build a tiny pipeline: FLUX.1-dev, or schnell without guidance. The global random state is restored."""
    tokenizer, t5_tokenizer = train_tokenizer(), train_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FluxPipeline(
            transformer=build_transformer(guidance=guidance),
            scheduler=build_scheduler(dynamic=guidance),
            vae=build_shifted_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=build_text_encoder(SIZES["micro"], tokenizer, sd2=False),
            tokenizer=tokenizer,
            text_encoder_2=build_t5(t5_tokenizer, width=T5_WIDTH),
            tokenizer_2=t5_tokenizer,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_transformer(*, guidance: bool) -> FluxTransformer2DModel:
    """Build a transformer with real module names. It has two double and two single blocks."""
    sizes: dict[str, Any] = {"patch_size": 1, "in_channels": 64, "num_layers": 2, "num_single_layers": 2}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 2, "axes_dims_rope": (2, 2, 4)}
    sizes |= {"joint_attention_dim": T5_WIDTH, "pooled_projection_dim": SIZES["micro"].text_width}
    return FluxTransformer2DModel(**sizes, guidance_embeds=guidance)


def build_scheduler(*, dynamic: bool) -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler with the settings that FLUX.1-dev (dynamic) or FLUX.1-schnell ships."""
    shifts: dict[str, Any] = {
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
    }
    return FlowMatchEulerDiscreteScheduler(**shifts, shift=3.0 if dynamic else 1.0, use_dynamic_shifting=dynamic)
