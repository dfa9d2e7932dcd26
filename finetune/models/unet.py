"""The common parts of families with a U-Net.

Axes: B batch, C channels, H W latent height and width.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelSource
from finetune.models.interfaces import VAE, Scheduler
from finetune.models.prompts import Prompts
from finetune.objectives.diffusion import Diffusion, rescale_zero_terminal_snr

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
EULER_LAST = 2**-24
"""What diffusers' Euler schedulers have in the place of 0 at the end of a schedule of zero terminal SNR."""
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
LORA_CONV_TARGETS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")


def diffusion_objective(scheduler: Scheduler, options: LossConfig) -> Diffusion:
    """Read the objective from the scheduler. An option that contradicts it is a ValueError."""
    config = scheduler.config
    stated = config.get("prediction_type", "epsilon")
    if options.prediction_type not in (None, stated):
        raise ValueError(
            f"loss.prediction_type: got {options.prediction_type}, but the checkpoint's scheduler says {stated}. "
            "Remove the option, or correct prediction_type in scheduler/scheduler_config.json if that is wrong."
        )
    if stated not in PREDICTION_TYPES:
        raise ValueError(
            f"model.source: the scheduler's prediction_type is {stated}, expected one of "
            f"{', '.join(PREDICTION_TYPES)}. Put back the scheduler/scheduler_config.json that was published "
            "with the model."
        )
    zero_terminal_snr = options.zero_terminal_snr or has_zero_terminal_snr(scheduler)
    if zero_terminal_snr and stated == "epsilon":
        given = "loss.zero_terminal_snr: got true"
        if not options.zero_terminal_snr:
            given = "model.source: the scheduler says rescale_betas_zero_snr true"
        raise ValueError(
            f"{given} for an epsilon model, whose last timestep would then carry no signal to learn. It needs a "
            "v-prediction checkpoint: if this is one, say so with --loss.prediction_type v_prediction for a single "
            "file, or with prediction_type in scheduler/scheduler_config.json."
        )
    alphas_cumprod = scheduler.alphas_cumprod.double()
    if not (bool((alphas_cumprod.diff() < 0).all()) and alphas_cumprod[-1] >= 0 and alphas_cumprod[0] <= 1):
        raise ValueError(
            "model.source: the scheduler's betas do not make a noise schedule, in which the signal falls from timestep "
            "to timestep. Put back the scheduler/scheduler_config.json that was published with the model."
        )
    if zero_terminal_snr:  # twice changes nothing, and some schedulers ignore their own option
        if alphas_cumprod[-1] <= EULER_LAST:
            alphas_cumprod[-1] = 0
        alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
    return Diffusion(
        alphas_cumprod, stated, replace(options, prediction_type=stated, zero_terminal_snr=zero_terminal_snr)
    )


def has_zero_terminal_snr(scheduler: Scheduler) -> bool:
    """Recognise a scheduler whose schedule ends in noise alone."""
    return bool(scheduler.config.get("rescale_betas_zero_snr", False))


def sampling_scheduler(scheduler: Scheduler, options: LossConfig) -> Scheduler:
    """Choose the checkpoint's scheduler. Models trained so get one that starts without signal."""
    own = has_zero_terminal_snr(scheduler)
    heeds_it = "rescale_betas_zero_snr" in inspect.signature(type(scheduler)).parameters
    if (own and heeds_it) or not (own or options.zero_terminal_snr):
        return scheduler
    made = DDIMScheduler.from_config(
        dict(scheduler.config), rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    return cast("Scheduler", made)


def scaled_latents(vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample latents [B C H W] of pixels [B 3 h w]. They have a standard deviation of about 1."""
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    return posterior.sample(list(generators)) * vae.config.scaling_factor


def unet_input(noisy: Tensor, prompts: Prompts) -> Tensor:
    """Join noisy latents and the filling. The result is [B C H W] or [B 1+2C H W], in diffusers' order: latents, mask,
    latents of the image with the hole."""
    return noisy if prompts.filling is None else torch.cat([noisy, prompts.filling], dim=1)


def all_hidden() -> dict[str, Image.Image]:
    """Give an inpainting pipeline's arguments for an image hidden as a whole."""
    return {"image": Image.new("RGB", (8, 8), "grey"), "mask_image": Image.new("L", (8, 8), 255)}


def takes_filling(components: Components) -> bool:
    """Recognise the U-Net of an inpainting model. It takes a mask and the latents of an image with a hole."""
    return components.denoiser.config.in_channels == 2 * components.vae.config.latent_channels + 1


def check_channels(
    components: Components, source: ModelSource, plain: str, inpainting: str, *, is_inpainting: bool
) -> None:
    """Refuse a U-Net whose channels do not fit its pipeline. `plain` and `inpainting` are the names of both kinds."""
    channels, latents = components.denoiser.config.in_channels, components.vae.config.latent_channels
    expected = 2 * latents + 1 if is_inpainting else latents
    if channels == expected:
        return
    advice = "Is this another model's U-Net?"
    if takes_filling(components):
        advice = f'It is an inpainting U-Net: write "_class_name": "{inpainting}" in model_index.json.'
    elif channels == latents:
        advice = f'It is not an inpainting U-Net: write "_class_name": "{plain}" in model_index.json.'
    elif channels == latents + 1:
        advice = "Depth checkpoints are not supported: they need a depth map of every image."
    raise ValueError(
        f"model.source: the U-Net of {source.location} takes {channels} channels, expected {expected} for "
        f"{'an inpainting' if is_inpainting else 'its'} pipeline. {advice}"
    )
