"""A tiny PixArt-Sigma pipeline of the real classes."""

from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny import CAPTIONS, SIZES, build_vae


def save_pixart(folder: Path) -> Path:
    """Writes a `PixArtSigmaPipeline` with random weights to `folder` and returns it."""
    build_pixart().save_pretrained(folder)
    return folder


def build_pixart() -> PixArtSigmaPipeline:
    """Returns the pipeline; the global random state is left as it was."""
    tokenizer = build_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=16,
                d_kv=8,
                d_ff=16,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
        transformer = PixArtTransformer2DModel(
            sample_size=16,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            caption_channels=16,
        )
        vae = build_vae(SIZES["tiny"])
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipeline = PixArtSigmaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_t5_tokenizer() -> T5Tokenizer:
    """Returns a T5 tokenizer that knows letters and the words of CAPTIONS."""
    words = sorted({f"▁{word}" for caption in CAPTIONS for word in caption.split()})
    letters = ["▁", *map(chr, range(ord("a"), ord("z") + 1))]
    pieces = [(piece, -2.0) for piece in words] + [(letter, -8.0) for letter in letters]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], extra_ids=0)
