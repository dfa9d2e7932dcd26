"""Stable Diffusion XL: two CLIP text encoders, sizes and crops, U-Net.

Axes: B batch, N chunks of a long prompt, L tokens, D width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelFamily, ModelSource, SingleFileLayer
from finetune.models.interfaces import VAE, Denoiser, PromptEncoder, Scheduler, TextEncoder, Tokenizer
from finetune.models.layer_names.sgm import sgm_name
from finetune.models.loading.components import index_for, load_scheduler, load_weights, pipeline_index
from finetune.models.prompts import Prompts, Tokens, guided_arguments, length_mask
from finetune.models.text.clip import (
    CLIP_LORA_TARGETS,
    load_clip_tokenizer,
    paired_chunks,
    pool_at_end,
    refuse_other_vocabulary,
)
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

PLAIN, INPAINTING = "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"
ZEROS = "force_zeros_for_empty_prompt"
"""diffusers' option of the pipeline, kept in the config of the second text encoder too: its outputs and the keys of
cached texts depend on it."""


class StableDiffusionXL(ModelFamily):
    """SDXL (arXiv 2307.01952) without its refiner."""

    title = "Stable Diffusion XL"
    pipelines = (PLAIN, "StableDiffusionXLImg2ImgPipeline", INPAINTING)
    single_files: ClassVar[dict[str, str]] = {"xl_base": PLAIN, "xl_inpaint": INPAINTING}
    scheduler_option = "beta_schedule"
    lora_targets = LORA_TARGETS
    lora_conv_targets = LORA_CONV_TARGETS
    text_encoder_lora_targets = CLIP_LORA_TARGETS
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "denoiser": "lora_unet",
        "text_encoders.0": "lora_te1",
        "text_encoders.1": "lora_te2",
    }
    sd_scripts_blocks = ("attentions", "resnets", "downsamplers", "upsamplers")
    token_keys = ("clip_l", "clip_g")

    def scheduler(self, source: ModelSource) -> Scheduler:
        self._index(source)
        return load_scheduler(self, source)

    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        self._index(source)
        return load_clip_tokenizer(source, "tokenizer"), load_clip_tokenizer(source, "tokenizer_2")

    def is_inpainting(self, source: ModelSource) -> bool:
        return self._index(source)["_class_name"] == INPAINTING

    def _index(self, source: ModelSource) -> dict[str, object]:
        """Return model_index.json. The refiner, and checkpoints with other noise than SDXL's, are refused."""
        match pipeline_index(source).get("scheduler"):
            case ["diffusers", str(name)] if name.startswith("EDM"):
                raise ValueError(
                    f"model.source: {source.location} is made for {name}, whose noise levels and scaling (EDM, arXiv "
                    "2206.00364) are not those that SDXL is trained with here. Use a checkpoint that predicts epsilon "
                    "or v, such as SDXL's own."
                )
        index = index_for(self, source)
        if index.get("requires_aesthetics_score") or index.get("text_encoder") == [None, None]:
            raise ValueError(
                f"model.source: {source.location} is SDXL's refiner, which polishes images and has one text encoder; "
                "expected the base model."
            )
        return index

    def denoiser(self, source: ModelSource) -> Denoiser:
        return load_weights(UNet2DConditionModel, source, "unet")

    def vae(self, source: ModelSource) -> VAE:
        return load_weights(AutoencoderKL, source, "vae")

    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        first = load_weights(CLIPTextModel, source, "text_encoder")
        second = load_weights(CLIPTextModelWithProjection, source, "text_encoder_2")
        setattr(second.config, ZEROS, self._index(source).get(ZEROS, True))
        pool_at_end(second, load_clip_tokenizer(source, "tokenizer_2"))
        return first, second

    def check(self, components: Components, source: ModelSource) -> None:
        check_channels(components, source, PLAIN, INPAINTING, is_inpainting=self.is_inpainting(source))
        parts = "tokenizer", "tokenizer_2"
        for each in zip(parts, components.tokenizers, components.text_encoders, strict=True):
            refuse_other_vocabulary(source, *each)
        first, second = components.tokenizers
        if first.get_vocab() != second.get_vocab():
            raise ValueError(
                f"model.source: tokenizer and tokenizer_2 of {source.location} know other words, expected the same. Is "
                "tokenizer_2/vocab.json complete?"
            )
        config, widths = components.denoiser.config, [part.config.hidden_size for part in components.text_encoders]
        told = 6 * (config.addition_time_embed_dim or 0) + components.text_encoders[1].config.projection_dim
        expected = sum(widths), told
        if (config.cross_attention_dim, config.projection_class_embeddings_input_dim) != expected:
            raise ValueError(
                f"model.source: the U-Net of {source.location} takes texts {config.cross_attention_dim} wide and "
                f"{config.projection_class_embeddings_input_dim} values of sizes and pooled text, but its text "
                f"encoders give {expected[0]} and {expected[1]}. Is this another model's U-Net?"
            )

    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        if scheduler.config.get("timestep_type") == "continuous":
            raise ValueError(
                "model.source: the scheduler's timestep_type is continuous, whose timesteps are noise levels (EDM, "
                "arXiv 2206.00364); expected discrete."
            )
        return diffusion_objective(scheduler, options)

    def sampling_scheduler(self, scheduler: Scheduler, options: LossConfig) -> Scheduler:
        return sampling_scheduler(scheduler, options)

    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return scaled_latents(vae, pixels, generators)

    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        (tokens, others), chunks = paired_chunks(tokenizers, captions)
        pieces = tokenizers[0](list(captions), add_special_tokens=False, verbose=False).input_ids
        return Tokens({0: tokens, 1: others}, chunks, empty=torch.tensor([not p for p in pieces]))

    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        """Join both encoders' hidden states before the last layer, side by side. The pooled text is that of the
        second's first chunk.

        A caption without a word is the unconditional prompt. Where the checkpoint says so
        (force_zeros_for_empty_prompt, as SDXL's own does, which was trained so), it is zeros, in training as in
        diffusers' pipeline without a negative prompt.
        """
        first, second = text_encoders
        shape = tokens.ids[0].shape  # [B N L]
        hidden = first(tokens.ids[0].flatten(0, 1), output_hidden_states=True).hidden_states[-2]
        told = second(tokens.ids[1].flatten(0, 1), output_hidden_states=True)
        embeddings = torch.cat([hidden, told.hidden_states[-2]], dim=-1)  # [B*N L D]
        embeddings = embeddings.unflatten(0, shape[:2]).flatten(1, 2)  # [B N*L D]
        pooled = told.text_embeds.unflatten(0, shape[:2])[:, 0]
        if zeros_for_empty(second):
            assert tokens.empty is not None
            embeddings = embeddings.masked_fill(tokens.empty[:, None, None], 0)
            pooled = pooled.masked_fill(tokens.empty[:, None], 0)
        return Prompts(embeddings, length_mask(tokens.chunks * shape[2], embeddings.shape[1]), pooled)

    def unread_layers(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        """The first encoder's last layer and what follows it."""
        if not text_encoders:
            return ()
        ends = f"encoder.layers.{text_encoders[0].config.num_hidden_layers - 1}", "final_layer_norm"
        return tuple(f"text_encoders.0.{name}" for name, _ in text_encoders[0].named_modules() if name.endswith(ends))

    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        return denoiser(
            unet_input(noisy, prompts),
            t,
            encoder_hidden_states=prompts.embeddings,
            encoder_attention_mask=prompts.mask,
            added_cond_kwargs={"text_embeds": prompts.pooled, "time_ids": prompts.sizes},
        ).sample

    def pipeline(self, components: Components) -> StableDiffusionXLPipeline | StableDiffusionXLInpaintPipeline:
        kind = StableDiffusionXLInpaintPipeline if takes_filling(components) else StableDiffusionXLPipeline
        pipeline = kind(
            **components.pipeline_parts("unet"),
            force_zeros_for_empty_prompt=zeros_for_empty(components.text_encoders[1]),
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, object]:
        arguments = guided_arguments(encoded.embeddings, encoded.pooled)
        if takes_filling(components):
            arguments |= {**all_hidden(), "strength": 1.0}  # by default a little of the hidden image would stay
        return arguments

    def prompts_by(self, pipeline: PromptEncoder, prompt: str) -> Prompts:
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            prompt=prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Prompts(embeddings, pooled=pooled)

    def single_file_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        return SingleFileLayer(sgm_name(denoiser.config, module))

    def original_text_starts(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        return "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        assert isinstance(objective, Diffusion)
        return {
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.prediction_type": objective.prediction_type.removesuffix("_prediction"),
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_v2": "False",
        }


def zeros_for_empty(text_encoder: TextEncoder) -> bool:
    """True where a caption without a word is zeros, diffusers' default."""
    return vars(text_encoder.config).get(ZEROS, True)
