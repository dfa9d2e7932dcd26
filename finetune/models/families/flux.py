"""FLUX.1: a transformer on image patches and T5's tokens, distilled guidance. It is trained with flow matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelFamily, ModelSource, SingleFileLayer
from finetune.models.interfaces import VAE, Denoiser, Scheduler, TextEncoder, Tokenizer
from finetune.models.layer_names.flux import published_layer
from finetune.models.loading.components import index_for, load_scheduler, load_weights
from finetune.models.prompts import Prompts, Tokens
from finetune.models.text.clip import CLIP_LORA_TARGETS, load_clip_tokenizer, refuse_other_vocabulary
from finetune.models.text.t5 import cut_tokens, load_t5_tokenizer, longer_than
from finetune.models.transformer import PATCH, flow_objective, refuse_unshifted, shifted_latents
from finetune.objectives.diffusion import Objective

MAX_TOKENS = 512
"""Of T5; a longer caption is cut, as the pipeline does by default."""
TRAINING_GUIDANCE = 1.0
"""What a guidance-distilled model is told while it trains: no guidance, which is what the target of flow matching has.
The strength that images are made with later is still the model's own; sd-scripts and ai-toolkit train at 1 too."""
SAMPLING_GUIDANCE = 3.5
"""What FLUX.1-dev's images are made with; FLUX.1-schnell is told of none."""
CONVERTED_WIDTH = 3072
"""The width of the released models, which diffusers 0.42 has written into its reader of single blocks."""


class Flux(ModelFamily):
    """Rectified flow transformers (arXiv 2403.03206) as FLUX.1-dev and FLUX.1-schnell ship them."""

    title = "FLUX.1"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    refused_pipelines: ClassVar[dict[str, str]] = {
        "FluxFillPipeline": "Inpainting models of FLUX.1 (Fill) are not trained: they take holes beside images.",
        "FluxInpaintPipeline": "Save the model as a FluxPipeline: inpainting with it needs no weights of its own.",
        "FluxControlPipeline": "Models that are told of a depth map or of edges are not trained.",
        "FluxKontextPipeline": "Models that edit images (Kontext) are not trained: they need pairs of images.",
    }
    scheduler_option = "base_image_seq_len"
    lora_targets = (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("proj_mlp", "single_transformer_blocks.*.proj_out"),
    )
    no_new_tokens = "its CLIP gives one summary of the whole prompt, and T5 would have to learn them"
    lora_conv_targets = ()
    text_encoder_lora_targets = CLIP_LORA_TARGETS
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "denoiser": "lora_unet",
        "text_encoders.0": "lora_te1",
        "text_encoders.1": "lora_te3",
    }
    sd_scripts_blocks = (
        *("transformer_blocks", "single_transformer_blocks"),
        *("x_embedder", "context_embedder", "time_text_embed"),
    )
    guidance_scale = SAMPLING_GUIDANCE
    unfit_samplers = ("FlowMatchHeunDiscreteScheduler", "SASolverScheduler")
    """diffusers 0.42 passes them sigmas or a shift that they do not take."""
    knows_negative_prompts = False
    original_vae = "vae."
    implementation = "https://github.com/black-forest-labs/flux"

    def scheduler(self, source: ModelSource) -> Scheduler:
        return load_scheduler(self, source)

    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        index_for(self, source)
        return load_clip_tokenizer(source, "tokenizer"), load_t5_tokenizer(source, "tokenizer_2")

    def denoiser(self, source: ModelSource) -> Denoiser:
        return load_weights(FluxTransformer2DModel, source, "transformer")

    def vae(self, source: ModelSource) -> VAE:
        return load_weights(AutoencoderKL, source, "vae")

    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        return load_weights(CLIPTextModel, source, "text_encoder"), load_weights(
            T5EncoderModel, source, "text_encoder_2"
        )

    def check(self, components: Components, source: ModelSource) -> None:
        refuse_unshifted(components.vae, source)
        config, (clip, t5) = components.denoiser.config, components.text_encoders
        for names, found, expected in (
            ("channels", config.in_channels, components.vae.config.latent_channels * PATCH**2),
            ("numbers of a text as a whole", config.pooled_projection_dim, clip.config.hidden_size),
            ("numbers of a token", config.joint_attention_dim, t5.config.d_model),
        ):
            if found != expected:
                raise ValueError(
                    f"model.source: the transformer of {source.location} takes {found} {names}, expected {expected} "
                    f"for {self.title}. Is this another model's transformer, such as one for inpainting or control?"
                )
        refuse_other_vocabulary(source, "tokenizer", components.tokenizers[0], clip)
        refuse_other_vocabulary(source, "tokenizer_2", components.tokenizers[1], t5, "tokenizer.json")

    def warnings(self, source: ModelSource) -> list[str]:
        if self.scheduler(source).config.use_dynamic_shifting:
            return []
        return [
            f"model.source: the scheduler of {source.location} shifts nothing by size, as that of FLUX.1-schnell, "
            "which is distilled to draw in one to four steps; training undoes some of that. Keep it short, or adapt "
            "FLUX.1-dev."
        ]

    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        return flow_objective(scheduler, options, self.title)

    def pixel_multiple(self, vae: VAE) -> int:
        return PATCH * self.pixels_per_latent(vae)

    def filling_channels(self, components: Components) -> int:
        return 0

    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return shifted_latents(vae, pixels, generators)

    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        """Tokenize for CLIP and T5. CLIP reads one chunk alone, for its summary; T5 reads MAX_TOKENS, and its padding
        is not hidden from the transformer: so the model was trained."""
        clip, t5 = tokenizers
        ids = {0: cut_tokens(clip, captions, clip.model_max_length), 1: cut_tokens(t5, captions, MAX_TOKENS)}
        return Tokens(ids, torch.ones(len(captions), dtype=torch.long))

    def prompt_length(self, tokenizers: Sequence[Tokenizer]) -> int:
        return MAX_TOKENS - 1

    def cut_captions(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> list[str]:
        """List those that T5 does not read to their end. CLIP gives no more than a summary."""
        return longer_than(tokenizers[1], captions, MAX_TOKENS)

    def trained_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[TextEncoder, ...]:
        """Return CLIP alone. T5 is far larger, and no other program loads adapters of it."""
        return tuple(text_encoders[:1])

    def encode_frozen(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Tokens:
        if 1 in tokens.encoded:
            return tokens
        encoded = text_encoders[1](tokens.ids[1].flatten(0, 1)).last_hidden_state  # [B L D]
        return replace(tokens, ids={0: tokens.ids[0]}, encoded={1: encoded})

    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        tokens = self.encode_frozen(text_encoders, tokens)
        pooled = text_encoders[0](tokens.ids[0].flatten(0, 1)).pooler_output
        return Prompts(tokens.encoded[1], pooled=pooled)

    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        guidance = None
        if denoiser.config.guidance_embeds:
            guidance = torch.full_like(t, TRAINING_GUIDANCE, dtype=torch.float32)
        rows, columns = noisy.shape[2] // PATCH, noisy.shape[3] // PATCH
        predicted = denoiser(
            hidden_states=packed(noisy),
            timestep=t / 1000,
            guidance=guidance,
            pooled_projections=prompts.pooled,
            encoder_hidden_states=prompts.embeddings,
            txt_ids=torch.zeros(prompts.embeddings.shape[1], 3, device=noisy.device),
            img_ids=places(rows, columns, noisy.device),
        ).sample
        return unpacked(predicted, rows, columns)

    def pipeline(self, components: Components) -> FluxPipeline:
        pipeline = FluxPipeline(**components.pipeline_parts("transformer"))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, object]:
        return {"prompt_embeds": encoded.embeddings, "pooled_prompt_embeds": encoded.pooled}

    def single_file_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        return published_layer(denoiser, module)

    def original_weight(self, denoiser: Denoiser, name: str) -> SingleFileLayer:
        layer = super().original_weight(denoiser, name)
        is_norm = layer.name.endswith(("query_norm.weight", "key_norm.weight"))
        return replace(layer, name=layer.name.removesuffix("weight") + "scale") if is_norm else layer

    def diffusers_reads_original(self, denoiser: Denoiser) -> bool:
        return bool(denoiser.inner_dim == CONVERTED_WIDTH)

    def original_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        return ("clip_l", "t5xxl")

    def diffusers_reads_single_file(self, denoiser: Denoiser, modules: Sequence[str]) -> bool:
        """Refuse another width, and layers outside the blocks. diffusers 0.42 ignores those silently."""
        inside = all("transformer_blocks." in module for module in modules)
        return inside and bool(denoiser.inner_dim == CONVERTED_WIDTH)

    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        name = "flux-1-dev" if components.denoiser.config.guidance_embeds else "flux-1-schnell"
        return {
            "modelspec.architecture": f"{name}/lora",
            "modelspec.prediction_type": "flow",
            "ss_base_model_version": "flux1",
            "ss_guidance_scale": str(TRAINING_GUIDANCE),
            "ss_v2": "False",
        }


def packed(latents: Tensor) -> Tensor:
    """Pack latents [B C H W] to patches [B H/2*W/2 C*4]. They are row by row; a patch has its channels outermost."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Return patches [B rows*columns C*4] as latents [B C rows*2 columns*2]."""
    grid = patches.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (rows, columns))  # [B rows columns C 2 2]
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Number the patches, [rows*columns 3]: 0, row and column."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    return ids.flatten(0, 1)
