"""The demo's base model: a tiny pipeline of the real Stable Diffusion classes, trained in passing on drawn pictograms.

It exists because no base model ships with the project yet; it goes when one does. A plain loop, since recipes start
from a model that is there.
"""

# diffusers annotates tuples of several as tuples of one, and results as tuples.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.demo.drawings import ALL_SUBJECTS, PICTURE_SIZE, Subject, draw_chalk, draw_flat
from finetune.models.scratch import new_tokenizer
from finetune.objectives import Diffusion, denoising_loss

NUM_PICTURES = 1024
VAE_STEPS, VAE_BATCH, VAE_RATE = 1500, 8, 4e-3
DENOISER_STEPS, DENOISER_BATCH, DENOISER_RATE = 1200, 16, 2e-3
TEXT_LENGTH = 16  # tokens; the captions need nine
TEXT_WIDTH = 128
VOCABULARY = 1000
CAPTION_DROPOUT = 0.1

Progress = Callable[[str, int, int], None]
"""Called with what is being trained, the steps done, and the steps in all."""


def train_base_model(folder: Path, progress: Progress, seed: int = 0) -> Path:
    """Writes the pipeline to `folder` and returns it; a folder that is there already is complete and stays."""
    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(seed)
    subjects = [ALL_SUBJECTS[number % len(ALL_SUBJECTS)] for number in range(NUM_PICTURES)]
    flat = pixels(subjects, draw_flat, seed)
    # The autoencoder sees both looks, as Stable Diffusion's has seen all looks; denoiser and text encoder see one.
    vae = train_vae(torch.cat([flat, pixels(subjects, draw_chalk, seed + 1)]), progress)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in flat.split(64)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    captions = [text for s in ALL_SUBJECTS for text in (s.caption, s.chalk_caption)]
    tokenizer = new_tokenizer(captions, VOCABULARY, TEXT_LENGTH)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=new_denoiser(latents.shape[-1]),
        scheduler=new_scheduler(),
        safety_checker=None,  # pyright: ignore[reportArgumentType]  (optional in diffusers, typed as required)
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    train_denoiser(pipeline, latents * vae.config["scaling_factor"], [s.caption for s in subjects], progress)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary, safe_serialization=True)
    temporary.replace(folder)
    return folder


def pixels(subjects: list[Subject], draw: Callable[..., object], seed: int) -> Tensor:
    """Returns the drawn subjects, [B 3 H W] in [-1, 1]."""
    drawn = [np.array(draw(subject, np.random.default_rng((seed, n)))) for n, subject in enumerate(subjects)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(pictures: Tensor, progress: Progress) -> AutoencoderKL:
    """Returns an autoencoder that makes each picture four times smaller."""
    channels = (16, 32, 32)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=PICTURE_SIZE,
    )

    def loss(step: int) -> Tensor:
        clean = pictures[torch.randint(len(pictures), (VAE_BATCH,))]
        posterior = vae.encode(clean).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error, divergence = decoded - clean, posterior.kl().sum() / clean.numel()
        return error.abs().mean() + error.square().mean() + 1e-3 * divergence

    fit(vae, loss, VAE_STEPS, VAE_RATE, lambda step: progress("autoencoder", step, VAE_STEPS))
    return vae.eval()


def train_denoiser(pipeline: StableDiffusionPipeline, latents: Tensor, captions: list[str], progress: Progress) -> None:
    """Trains U-Net and text encoder together, with the objective and the loss of the recipes."""
    scheduler, text_encoder, unet = pipeline.scheduler, pipeline.text_encoder, pipeline.unet
    objective = Diffusion(scheduler.alphas_cumprod.double(), "epsilon", snr_gamma=5.0)
    tokens = pipeline.tokenizer(["", *captions], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    empty, ids = tokens.input_ids[0], tokens.input_ids[1:]

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(latents), (DENOISER_BATCH,))
        t = objective.sample_timesteps((torch.arange(DENOISER_BATCH) + torch.rand(1)) / DENOISER_BATCH)
        dropped = torch.rand(DENOISER_BATCH, 1) < CAPTION_DROPOUT
        prompts = text_encoder(torch.where(dropped, empty, ids[chosen])).last_hidden_state
        losses = denoising_loss(
            objective,
            lambda noisy, t: unet(noisy, t, prompts).sample,
            latents[chosen],
            torch.randn_like(latents[chosen]),
            t,
        )
        return (losses * objective.weight(t)).mean()

    both = nn.ModuleList([unet, text_encoder])
    fit(both, loss, DENOISER_STEPS, DENOISER_RATE, lambda step: progress("denoiser", step, DENOISER_STEPS))
    both.eval()


def fit(
    network: nn.Module, loss: Callable[[int], Tensor], steps: int, rate: float, progress: Callable[[int], None]
) -> None:
    """Minimises `loss(step)` over the network's weights with AdamW, a short warm-up and a cosine."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
        loss(step).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Returns a two-layer CLIP text encoder with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_denoiser(side: int) -> UNet2DConditionModel:
    """Returns a two-level U-Net with cross-attention and random weights."""
    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),  # attention on every level: what LoRA adapts
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
    )


def new_scheduler() -> DDIMScheduler:
    """Returns Stable Diffusion's noise schedule for epsilon prediction; latents are never clipped."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )
