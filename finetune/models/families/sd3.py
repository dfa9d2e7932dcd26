"""Stable Diffusion 3 and 3.5: two CLIP encoders, T5, transformer, flow matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelFamily, ModelSource, SingleFileLayer
from finetune.models.interfaces import VAE, Denoiser, Scheduler, TextEncoder, Tokenizer
from finetune.models.layer_names.sd3 import single_file_layer
from finetune.models.loading.components import index_for, load_scheduler, load_weights
from finetune.models.prompts import Prompts, Tokens, guided_arguments
from finetune.models.text.clip import CLIP_LORA_TARGETS, load_clip_tokenizer, refuse_other_vocabulary
from finetune.models.text.t5 import cut_tokens, load_t5_tokenizer, longer_than
from finetune.models.transformer import PATCH, flow_objective, refuse_unshifted, shifted_latents
from finetune.objectives.diffusion import Objective

T5 = "text_encoder_3"
T5_LENGTH = 256
"""The pipeline's `max_sequence_length`."""


class StableDiffusion3(ModelFamily):
    """Rectified flow with a multimodal transformer (MMDiT, arXiv 2403.03206). Without T5, zeros take its place, as in
    the pipeline and in the paper's section 5.3.3: `Prompts` has embeddings of CLIP alone, and the denoiser gets
    them."""

    title = "Stable Diffusion 3 and 3.5"
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    scheduler_option = "use_dynamic_shifting"
    repeated_blocks = ("JointTransformerBlock",)
    optional_parts = (T5,)
    no_new_tokens = "diffusers' pipelines of it load none, and T5 would have to learn them too"
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    lora_conv_targets = ()
    text_encoder_lora_targets = CLIP_LORA_TARGETS
    guidance_scale = 5.0
    """Between what the cards of 3 (7) and of 3.5 (4.5 and 3.5) draw with."""
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "denoiser": "lora_unet",
        "text_encoders.0": "lora_te1",
        "text_encoders.1": "lora_te2",
        "text_encoders.2": "lora_te3",
    }

    def scheduler(self, source: ModelSource) -> Scheduler:
        return load_scheduler(self, source)

    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        has_t5 = self.has_t5(source)  # first of all, since it refuses other families' checkpoints
        clip = tuple(load_clip_tokenizer(source, part) for part in ("tokenizer", "tokenizer_2"))
        return (*clip, load_t5_tokenizer(source, "tokenizer_3")) if has_t5 else clip

    def denoiser(self, source: ModelSource) -> Denoiser:
        return load_weights(SD3Transformer2DModel, source, "transformer")

    def vae(self, source: ModelSource) -> VAE:
        return load_weights(AutoencoderKL, source, "vae")

    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        names = ("text_encoder", "text_encoder_2")
        clip = tuple(load_weights(CLIPTextModelWithProjection, source, name) for name in names)
        return (*clip, load_weights(T5EncoderModel, source, T5)) if self.has_t5(source) else clip

    def has_t5(self, source: ModelSource) -> bool:
        """True where the checkpoint has T5 and it is not left out."""
        named = cast("list[object]", index_for(self, source).get(T5) or [None])
        return named[0] is not None and T5 not in source.without

    def warnings(self, source: ModelSource) -> list[str]:
        if self.has_t5(source) or T5 in source.without:
            return []
        return [
            f"model.source: {source.location} has no {T5} (T5): zeros take its place, and captions are read up to "
            "CLIP's 75 tokens."
        ]

    def check(self, components: Components, source: ModelSource) -> None:
        refuse_unshifted(components.vae, source)
        check_widths(components, source)
        parts, files = ("tokenizer", "tokenizer_2", "tokenizer_3"), ("vocab.json", "vocab.json", "tokenizer.json")
        for each in zip(parts, components.tokenizers, components.text_encoders, files, strict=False):
            refuse_other_vocabulary(source, *each)

    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        return flow_objective(scheduler, options, self.title)

    def pixel_multiple(self, vae: VAE) -> int:
        return self.pixels_per_latent(vae) * PATCH

    def longest_side(self, components: Components) -> int | None:
        return components.denoiser.config.pos_embed_max_size * self.pixel_multiple(components.vae)

    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return shifted_latents(vae, pixels, generators)

    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        short = tokenizers[0].model_max_length
        lengths = (short, short, T5_LENGTH)
        ids = {n: cut_tokens(each, captions, lengths[n]) for n, each in enumerate(tokenizers)}
        return Tokens(ids, torch.ones(len(captions), dtype=torch.long))

    def prompt_length(self, tokenizers: Sequence[Tokenizer]) -> int | None:
        return T5_LENGTH - 1 if len(tokenizers) > 2 else tokenizers[0].model_max_length - 2

    def cut_captions(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> list[str]:
        """T5 reads the end of captions that CLIP does not."""
        if len(tokenizers) > 2:
            return longer_than(tokenizers[2], captions, T5_LENGTH)
        return longer_than(tokenizers[0], captions, tokenizers[0].model_max_length)

    def trained_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[TextEncoder, ...]:
        """Return the two of CLIP. T5 is larger than the denoiser, and no inference program loads adapters of it."""
        return tuple(text_encoders[:2])

    def encode_frozen(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Tokens:
        if 2 not in tokens.ids:
            return tokens
        encoded = text_encoders[2](tokens.ids[2].flatten(0, 1))[0]  # [B L D]
        return replace(tokens, ids={n: tokens.ids[n] for n in (0, 1)}, encoded={2: encoded})

    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        tokens = self.encode_frozen(text_encoders, tokens)
        clip = [
            text_encoder(own.flatten(0, 1), output_hidden_states=True)
            for text_encoder, own in zip(text_encoders, (tokens.ids[0], tokens.ids[1]), strict=False)
        ]
        embeddings = torch.cat([output.hidden_states[-2] for output in clip], dim=2)  # [B L D1+D2]
        pooled = torch.cat([output.text_embeds for output in clip], dim=1)
        if 2 in tokens.encoded:
            t5 = tokens.encoded[2]
            embeddings = torch.cat([nn.functional.pad(embeddings, (0, t5.shape[2] - embeddings.shape[2])), t5], dim=1)
        return Prompts(embeddings, pooled=pooled)

    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        embeddings = with_zeros_for_t5(prompts.embeddings, denoiser.config.joint_attention_dim)
        return denoiser(noisy, timestep=t, encoder_hidden_states=embeddings, pooled_projections=prompts.pooled).sample

    def pipeline(self, components: Components) -> StableDiffusion3Pipeline:
        parts = components.pipeline_parts("transformer")
        for name in ("text_encoder_3", "tokenizer_3"):  # without T5
            parts.setdefault(name, None)
        pipeline = StableDiffusion3Pipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, object]:
        embeddings = with_zeros_for_t5(encoded.embeddings, components.denoiser.config.joint_attention_dim)
        return guided_arguments(embeddings, encoded.pooled)

    def single_file_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        return single_file_layer(denoiser, module)

    def original_weight(self, denoiser: Denoiser, name: str) -> SingleFileLayer:
        if name == "pos_embed.pos_embed":
            return SingleFileLayer("pos_embed")
        return super().original_weight(denoiser, name)

    def diffusers_reads_single_file(self, denoiser: Denoiser, modules: Sequence[str]) -> bool:
        """Return False: diffusers 0.42 reads its own layout alone."""
        return False

    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        config = components.denoiser.config
        version = "v3-medium"
        if config.qk_norm is not None:  # of the two of 3.5, medium alone attends twice
            version = "v3.5-medium" if config.dual_attention_layers else "v3.5-large"
        return {
            "modelspec.architecture": f"stable-diffusion-{version}/lora",
            "modelspec.prediction_type": "flow",
            "ss_base_model_version": "sd3",
            "ss_v2": "False",
        }


def with_zeros_for_t5(embeddings: Tensor, width: int) -> Tensor:
    """Fill up embeddings without T5 with zeros. The result is [B L+256 D], as wide as the denoiser's."""
    if embeddings.shape[1] > T5_LENGTH:
        return embeddings
    return nn.functional.pad(embeddings, (0, width - embeddings.shape[2], 0, T5_LENGTH))


def check_widths(components: Components, source: ModelSource) -> None:
    """Raise ValueError where a part does not take what another one gives."""
    denoiser, clip = components.denoiser.config, [encoder.config for encoder in components.text_encoders[:2]]
    given = [
        ("patches of", denoiser.patch_size, PATCH),
        ("latents of", denoiser.in_channels, components.vae.config.latent_channels),
        ("pooled prompts of", denoiser.pooled_projection_dim, sum(each.projection_dim for each in clip)),
    ]
    given += [("prompts of", denoiser.joint_attention_dim, t5.config.d_model) for t5 in components.text_encoders[2:]]
    for what, taken, found in given:
        if taken != found:
            raise ValueError(
                f"model.source: the transformer of {source.location} takes {what} width {taken}, but the other parts "
                f"give {found}. Is this another model's transformer?"
            )
    if denoiser.joint_attention_dim < sum(each.hidden_size for each in clip):
        raise ValueError(
            f"model.source: the transformer of {source.location} takes prompts of width {denoiser.joint_attention_dim},"
            f" narrower than what its CLIP text encoders give. Is this another model's transformer?"
        )
