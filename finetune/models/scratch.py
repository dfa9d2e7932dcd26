"""A new Stable Diffusion pipeline: random weights, tokenizer from captions."""

# diffusers annotates tuples of several as tuples of one, and optional parts as required.
# pyright: reportArgumentType=false

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.config.pretrain import ArchitectureConfig
from finetune.files import new_folder, writing


def save_new_pipeline(
    config: ArchitectureConfig, captions: Iterable[str], resolution: int, seed: int, folder: Path
) -> str:
    """Write the pipeline to `folder`, complete or not at all. Returns its sizes as a line of text."""
    pipeline = new_pipeline(config, captions, resolution, seed)
    with writing(folder), new_folder(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
    parts = {"U-Net": pipeline.unet, "VAE": pipeline.vae, "text encoder": pipeline.text_encoder}
    sizes = [f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in parts.items()]
    return f"{', '.join(sizes)} weights, {len(pipeline.tokenizer):,} tokens."


def new_pipeline(
    config: ArchitectureConfig, captions: Iterable[str], resolution: int, seed: int
) -> StableDiffusionPipeline:
    """Return the pipeline. It depends on the arguments alone, and the global random state stays as it was."""
    tokenizer = new_tokenizer(captions, config.vocabulary, config.text_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusionPipeline(
            vae=new_vae(config, resolution),
            text_encoder=new_text_encoder(config, tokenizer),
            tokenizer=tokenizer,
            unet=new_unet(config, resolution),
            scheduler=new_scheduler(config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def new_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> CLIPTokenizer:
    """Learn a CLIP tokenizer of at most `vocabulary` tokens from the captions."""
    backend = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    # CLIP's own order: all bytes, all bytes at a word's end, merges. Naming them first also fixes their numbers, which
    # the trainer otherwise gives out in an order that changes from run to run.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in learned["merges"]]
    return CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=length)


def new_vae(config: ArchitectureConfig, resolution: int) -> AutoencoderKL:
    """Return an autoencoder that makes images `config.pixel_multiple` times smaller along each side."""
    levels = len(config.vae_channels)
    return AutoencoderKL(
        block_out_channels=config.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.vae_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,  # attention over all latents costs much and gives little at this size
        sample_size=resolution,
        scaling_factor=1.0,
    )


def new_text_encoder(config: ArchitectureConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return a CLIP text model. Its heads are 32 channels wide where that divides its width, else 8."""
    width = config.text_width
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=width // (32 if width % 32 == 0 else 8),
            max_position_embeddings=config.text_length,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet(config: ArchitectureConfig, resolution: int) -> UNet2DConditionModel:
    """Return a U-Net with cross-attention in all but its first levels. The first have convolutions only."""
    plain, attending = config.unet_plain_levels, len(config.unet_channels) - config.unet_plain_levels
    return UNet2DConditionModel(
        sample_size=resolution // config.pixel_multiple,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
        up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
        layers_per_block=config.unet_layers,
        norm_num_groups=8,
        attention_head_dim=tuple(width // config.head_width for width in config.unet_channels),  # numbers of heads
        cross_attention_dim=config.text_width,
    )


def new_scheduler(config: ArchitectureConfig) -> DDIMScheduler:
    """Return the scheduler. Latents are never clipped, whatever other scheduler is made from its config."""
    return DDIMScheduler(
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=config.prediction_type,
    )
