"""Stable Diffusion 1.x and 2.x. One CLIP text encoder, U-Net, epsilon or v."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelFamily, ModelSource, SingleFileLayer
from finetune.models.interfaces import VAE, Denoiser, Scheduler, TextEncoder, Tokenizer
from finetune.models.layer_names.sgm import sgm_name
from finetune.models.loading.components import index_for, load_scheduler, load_weights
from finetune.models.prompts import Prompts, Tokens, guided_arguments, length_mask
from finetune.models.text.clip import CLIP_LORA_TARGETS, clip_chunks, load_clip_tokenizer, refuse_other_vocabulary
from finetune.models.unet import (
    LORA_CONV_TARGETS,
    LORA_TARGETS,
    all_hidden,
    check_channels,
    diffusion_objective,
    sampling_scheduler,
    scaled_latents,
    takes_filling,
    unet_input,
)
from finetune.objectives.diffusion import Diffusion, Objective

PLAIN, INPAINTING = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"


class StableDiffusion(ModelFamily):
    """Latent diffusion (arXiv 2112.10752) as Stable Diffusion 1.x and 2.x ship it."""

    title = "Stable Diffusion 1.x and 2.x"
    pipelines = (PLAIN, "StableDiffusionImg2ImgPipeline", INPAINTING)
    single_files: ClassVar[dict[str, str]] = {
        "v1": PLAIN,
        "v2": PLAIN,
        "inpainting": INPAINTING,
        "inpainting_v2": INPAINTING,
    }
    scheduler_option = "beta_schedule"
    lora_targets = LORA_TARGETS
    lora_conv_targets = LORA_CONV_TARGETS
    text_encoder_lora_targets = CLIP_LORA_TARGETS
    kohya_prefixes: ClassVar[dict[str, str]] = {"denoiser": "lora_unet", "text_encoders.0": "lora_te"}
    sd_scripts_blocks = ("attentions", "resnets", "downsamplers", "upsamplers")

    def scheduler(self, source: ModelSource) -> Scheduler:
        return load_scheduler(self, source)

    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        index_for(self, source)
        return (load_clip_tokenizer(source, "tokenizer"),)

    def is_inpainting(self, source: ModelSource) -> bool:
        return index_for(self, source)["_class_name"] == INPAINTING

    def denoiser(self, source: ModelSource) -> Denoiser:
        return load_weights(UNet2DConditionModel, source, "unet")

    def vae(self, source: ModelSource) -> VAE:
        return load_weights(AutoencoderKL, source, "vae")

    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        return (load_weights(CLIPTextModel, source, "text_encoder"),)

    def check(self, components: Components, source: ModelSource) -> None:
        check_channels(components, source, PLAIN, INPAINTING, is_inpainting=self.is_inpainting(source))
        refuse_other_vocabulary(source, "tokenizer", components.tokenizers[0], components.text_encoders[0])

    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        return diffusion_objective(scheduler, options)

    def sampling_scheduler(self, scheduler: Scheduler, options: LossConfig) -> Scheduler:
        return sampling_scheduler(scheduler, options)

    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return scaled_latents(vae, pixels, generators)

    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        tokens, chunks = clip_chunks(tokenizers[0], captions)
        return Tokens({0: tokens}, chunks)

    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        (text_encoder,) = text_encoders
        ids = tokens.ids[0]
        embeddings = text_encoder(ids.flatten(0, 1)).last_hidden_state  # [B*N L D]
        embeddings = embeddings.unflatten(0, ids.shape[:2]).flatten(1, 2)  # [B N*L D]
        return Prompts(embeddings, length_mask(tokens.chunks * ids.shape[2], embeddings.shape[1]))

    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        return denoiser(
            unet_input(noisy, prompts),
            t,
            encoder_hidden_states=prompts.embeddings,
            encoder_attention_mask=prompts.mask,
        ).sample

    def pipeline(self, components: Components) -> StableDiffusionPipeline | StableDiffusionInpaintPipeline:
        kind = StableDiffusionInpaintPipeline if takes_filling(components) else StableDiffusionPipeline
        pipeline = kind(
            **components.pipeline_parts("unet"),
            safety_checker=None,  # pyright: ignore[reportArgumentType]  (optional in diffusers, typed as required)
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, object]:
        """Pass a hidden image to inpainting pipelines. They adapt its size to that of the output."""
        return guided_arguments(encoded.embeddings) | (all_hidden() if takes_filling(components) else {})

    def original_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        return SingleFileLayer(sgm_name(denoiser.config, module))

    def original_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        return tuple("clip_h" if encoder.config.hidden_size == 1024 else "clip_l" for encoder in text_encoders)

    def original_text_starts(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        names = self.original_text_encoders(text_encoders)
        return tuple(f"cond_stage_model.{'model' if name == 'clip_h' else 'transformer'}." for name in names)

    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        assert isinstance(objective, Diffusion)
        is_v2 = components.denoiser.config.cross_attention_dim == 1024
        v_prediction = objective.prediction_type == "v_prediction"
        version_2 = "stable-diffusion-v2-768-v" if v_prediction else "stable-diffusion-v2-512"
        return {
            "modelspec.architecture": (version_2 if is_v2 else "stable-diffusion-v1") + "/lora",
            "modelspec.prediction_type": "v" if v_prediction else objective.prediction_type,
            "ss_base_model_version": ("sd_v2" if is_v2 else "sd_v1") + ("_v" if v_prediction else ""),
            "ss_v2": str(is_v2),
        }
