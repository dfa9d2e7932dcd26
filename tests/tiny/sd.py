"""Tiny pipelines of real classes and small image folders, from seeds."""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

COLORS = {
    "red": (214, 40, 40),
    "green": (50, 160, 75),
    "blue": (40, 95, 210),
    "yellow": (250, 205, 35),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
PAPERS = {"white": (250, 250, 250), "grey": (150, 150, 150), "pink": (245, 180, 205)}
CAPTIONS = tuple(f"a {color} {shape} on {paper} paper" for color in COLORS for shape in SHAPES for paper in PAPERS)
"""The captions of `save_pictures`, and the text that the tokenizer is trained on."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a pipeline. All but micro have four levels and two layers per block, as Stable Diffusion's U-Net."""

    unet_channels: tuple[int, ...]
    vae_channels: tuple[int, ...]
    num_heads: int
    text_width: int
    layers_per_block: int = 2
    latent_size: int = 32


SIZES = {
    "micro": Shape((8, 16), (4, 4, 8), num_heads=2, text_width=32, layers_per_block=1, latent_size=16),
    "tiny": Shape((8, 16, 16, 16), (8, 8), num_heads=2, text_width=32),
    "factor8": Shape((8, 16, 16, 16), (4, 4, 8, 8), num_heads=2, text_width=32),
    "small": Shape((32, 64, 96, 96), (16, 32, 32, 32), num_heads=4, text_width=64),
}
"""micro: two levels, and images four times as large as latents, for tests of the loop, which run many steps. tiny:
images are twice as large as latents. factor8: eight times, as in the real models. small: eight times, and wide enough
to learn a little from images of 64 pixels or more."""


def save_pipeline(folder: Path, **options: Any) -> Path:
    """Write a tiny `StableDiffusionPipeline` to `folder` and return it.

    Weights are random. Topology, module names, tokenizer conventions and scheduler are those of Stable Diffusion 1.5,
    or with `sd2` of 2.1: linear projections, gelu, "!" as padding, and a text width of 1024, which identifies version
    2. `sd2` does not set the prediction type, since 2.1-base predicts epsilon and 2.1 predicts v. With `inpainting` it
    is a `StableDiffusionInpaintPipeline`, whose U-Net has 9 channels.
    """
    build_pipeline(**options).save_pretrained(folder)
    return folder


def build_pipeline(
    *,
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
    sd2: bool = False,
    seed: int = 0,
    size: Literal["micro", "tiny", "factor8", "small"] = "tiny",
    inpainting: bool = False,
) -> StableDiffusionPipeline | StableDiffusionInpaintPipeline:
    """Return the pipeline that `save_pipeline` writes. The global random state is left as it was."""
    shape = SIZES[size]
    tokenizer = train_tokenizer(padding="!" if sd2 else "<|endoftext|>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = (StableDiffusionInpaintPipeline if inpainting else StableDiffusionPipeline)(
            vae=build_vae(shape),
            text_encoder=build_text_encoder(shape, tokenizer, sd2=sd2),
            tokenizer=tokenizer,
            unet=build_unet(shape, sd2=sd2, in_channels=9 if inpainting else 4),
            scheduler=build_scheduler(prediction_type, sd2=sd2),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_unet(shape: Shape, *, sd2: bool, in_channels: int = 4) -> UNet2DConditionModel:
    """Return a U-Net whose modules carry the names of the real ones."""
    num_attending = len(shape.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=shape.latent_size,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=shape.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * num_attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * num_attending,
        layers_per_block=shape.layers_per_block,
        norm_num_groups=4,
        attention_head_dim=shape.num_heads,  # diffusers' name for the number of heads
        cross_attention_dim=1024 if sd2 else shape.text_width,
        use_linear_projection=sd2,
    )


def build_vae(shape: Shape, **options: Any) -> AutoencoderKL:
    """Build an autoencoder, by default with 4 latent channels. Each level after the first halves the image."""
    num_levels = len(shape.vae_channels)
    usual = {"latent_channels": 4, "scaling_factor": 0.18215}
    return AutoencoderKL(
        block_out_channels=shape.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        norm_num_groups=4,
        sample_size=shape.latent_size * 2 ** (num_levels - 1),
        **(usual | options),
    )


def build_shifted_vae(**scaling: float) -> AutoencoderKL:
    """Build an autoencoder with 16 shifted and scaled latent channels."""
    return build_vae(SIZES["tiny"], latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **scaling)


def build_text_encoder(shape: Shape, tokenizer: CLIPTokenizer, *, sd2: bool) -> CLIPTextModel:
    """Build a CLIP text model of two layers. Version 2's has one, whose width makes it the largest part."""
    sizes = {"hidden_size": shape.text_width, "intermediate_size": 4 * shape.text_width, "num_hidden_layers": 2}
    if sd2:
        sizes = {"hidden_size": 1024, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 16}
    return CLIPTextModel(clip_config(tokenizer, "gelu" if sd2 else "quick_gelu", projection_dim=32, **sizes))


def clip_config(tokenizer: CLIPTokenizer, activation: str, **options: int) -> CLIPTextConfig:
    """Return a text encoder's config. By default it has three layers and the tokenizer's ids."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 77}
    return CLIPTextConfig(vocab_size=len(tokenizer), hidden_act=activation, **(sizes | ids | options))


def build_scheduler(prediction_type: str, *, sd2: bool) -> PNDMScheduler | DDIMScheduler:
    """Build the scheduler of Stable Diffusion 1.5 (PNDM) or 2.1 (DDIM)."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,  # PNDM has no such option, but 1.5 ships it for the schedulers one may switch to
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    return DDIMScheduler.from_config(config) if sd2 else PNDMScheduler.from_config(config)


def train_tokenizer(*, padding: str = "<|endoftext|>") -> CLIPTokenizer:
    """Train a CLIP tokenizer on CAPTIONS. It has all bytes, all bytes with </w>, merges, start and end."""
    vocab, merges = learned_merges()
    tokenizer = CLIPTokenizer(vocab=dict(vocab), merges=list(merges), pad_token=padding, model_max_length=77)
    assert tokenizer.pad_token_id == vocab[padding]
    return tokenizer


@functools.cache
def learned_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn vocabulary and merges of a byte-level BPE. Splitting and lower-casing follow CLIP."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    merges = [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def save_pictures(
    folder: Path, *, count: int = 8, size: int = 64, seed: int = 0, aspects: Sequence[float] = (1.0,)
) -> Path:
    """Write PNG images of shapes with metadata.jsonl; return the folder.

    An image has about size x size pixels; its width over height runs through `aspects` in turn. Captions are those of
    `CAPTIONS`, so the tiny tokenizer knows their words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        aspect = aspects[number % len(aspects)]
        width, height = round(size * math.sqrt(aspect)), round(size / math.sqrt(aspect))
        color, shape, paper = (str(random.choice(list(names))) for names in (COLORS, SHAPES, PAPERS))
        picture = Image.new("RGB", (width, height), PAPERS[paper])
        radius = min(width, height) * random.uniform(0.2, 0.35)
        x, y = (random.uniform(radius, side - radius) for side in (width, height))
        draw_shape(ImageDraw.Draw(picture), shape, x, y, radius, COLORS[color])
        picture.save(folder / f"{number:04d}.png")
        rows.append(json.dumps({"file_name": f"{number:04d}.png", "text": f"a {color} {shape} on {paper} paper"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, color: tuple[int, int, int]
) -> None:
    bounds = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(bounds, fill=color)
    elif shape == "square":
        draw.rectangle(bounds, fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=color)
    else:
        draw.rectangle((x - radius, y - radius / 3, x + radius, y + radius / 3), fill=color)
        draw.rectangle((x - radius / 3, y - radius, x + radius / 3, y + radius), fill=color)
