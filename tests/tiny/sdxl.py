"""A micro Stable Diffusion XL pipeline, built from a seed."""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny.sd import SIZES, build_vae, clip_config, train_tokenizer

WIDTHS = 32, 24
"""Of the text encoders."""
PROJECTION, TIME_WIDTH = 16, 8


def save_pipeline(folder: Path, **options: Any) -> Path:
    """Write a tiny `StableDiffusionXLPipeline`. Its configs have the old, wrong end token, as the real ones."""
    build_pipeline(**options).save_pretrained(folder)
    return folder


def build_pipeline(
    *,
    seed: int = 0,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    force_zeros: bool = True,
    inpainting: bool = False,
    num_layers: int = 3,
) -> StableDiffusionXLPipeline | StableDiffusionXLInpaintPipeline:
    """Build a micro pipeline, with more text encoder layers if asked. The global random state is restored."""
    first, second = train_tokenizer(), train_tokenizer(padding="!")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    steps: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "prediction_type": prediction_type}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = (StableDiffusionXLInpaintPipeline if inpainting else StableDiffusionXLPipeline)(
            vae=build_vae(SIZES["micro"], scaling_factor=0.13025),
            text_encoder=CLIPTextModel(text_config(WIDTHS[0], first, "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(text_config(WIDTHS[1], second, "gelu", num_layers=num_layers)),
            tokenizer=first,
            tokenizer_2=second,
            unet=build_unet(in_channels=9 if inpainting else 4),
            scheduler=EulerDiscreteScheduler(**betas, **steps),
            force_zeros_for_empty_prompt=force_zeros,
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def text_config(width: int, tokenizer: CLIPTokenizer, activation: str, *, num_layers: int = 3) -> CLIPTextConfig:
    """Return a text encoder's config, with real values beside sizes."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": num_layers}
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    return clip_config(tokenizer, activation, projection_dim=PROJECTION, **sizes, **ids)


def build_unet(*, in_channels: int) -> UNet2DConditionModel:
    """Build a U-Net of SDXL's three levels with two resnets each. The first level has no attention."""
    sizes: dict[str, Any] = {"sample_size": 32, "in_channels": in_channels, "out_channels": 4, "norm_num_groups": 4}
    sizes |= {"block_out_channels": (8, 16, 16), "layers_per_block": 2, "transformer_layers_per_block": (1, 1, 2)}
    sizes |= {"attention_head_dim": (1, 2, 2), "cross_attention_dim": sum(WIDTHS)}  # the first: numbers of heads
    sizes |= {"projection_class_embeddings_input_dim": 6 * TIME_WIDTH + PROJECTION}
    return UNet2DConditionModel(
        **sizes,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
    )
