"""PixArt-Sigma (arXiv 2403.04692): a transformer with cross-attention on T5 prompts, epsilon prediction.

The worked example of docs/add_a_family.md: complete, tested, and not registered.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from finetune.config.loss import LossConfig
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.interfaces import VAE, Denoiser, Scheduler, TextEncoder, Tokenizer
from finetune.models.loading.components import index_for, load_part, load_scheduler, load_weights
from finetune.models.prompts import Prompts, Tokens
from finetune.objectives.diffusion import Diffusion, Objective

NUM_TOKENS = 300  # what the model was trained with, and the default of diffusers' pipeline


class PixArtSigma(ModelFamily):
    """PixArt-Sigma as diffusers has it."""

    title = "PixArt-Sigma"
    pipelines = ("PixArtSigmaPipeline",)
    scheduler_option = "beta_schedule"
    no_new_tokens = "diffusers' pipeline of it loads none"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    lora_conv_targets = ()
    text_encoder_lora_targets = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
    reads_lora = False  # its pipeline has no load_lora_weights
    kohya_prefixes: ClassVar[dict[str, str]] = {"denoiser": "lora_unet", "text_encoders.0": "lora_te1"}

    def scheduler(self, source: ModelSource) -> Scheduler:
        return load_scheduler(self, source)

    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        index_for(self, source)
        return (load_part(T5Tokenizer, source, "tokenizer"),)

    def denoiser(self, source: ModelSource) -> Denoiser:
        return load_weights(PixArtTransformer2DModel, source, "transformer")

    def vae(self, source: ModelSource) -> VAE:
        return load_weights(AutoencoderKL, source, "vae")

    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        return (load_weights(T5EncoderModel, source, "text_encoder"),)

    def check(self, components: Components, source: ModelSource) -> None:
        takes, width = components.denoiser.config.caption_channels, components.text_encoders[0].config.d_model
        if takes != width:
            raise ValueError(
                f"model.source: the transformer of {source.location} takes prompts of width {takes}, its text encoder "
                f"makes {width}. Are both of the same model?"
            )

    def is_inpainting(self, source: ModelSource) -> bool:
        return False

    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        if options.prediction_type not in (None, "epsilon"):
            raise ValueError(
                f"loss.prediction_type: got {options.prediction_type}, expected epsilon for {self.title}. Remove it."
            )
        if options.zero_terminal_snr:
            raise ValueError("loss.zero_terminal_snr: got true, which needs a v-prediction model. Remove it.")
        return Diffusion(scheduler.alphas_cumprod.double(), "epsilon", options)

    def sampling_scheduler(self, scheduler: Scheduler, options: LossConfig) -> Scheduler:
        return scheduler

    def pixel_multiple(self, vae: VAE) -> int:
        return 2 * self.pixels_per_latent(vae)  # a token of the transformer is 2x2 latents

    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        return posterior.sample(list(generators)) * vae.config.scaling_factor

    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        texts = [caption.lower().strip() for caption in captions]  # as the pipeline does
        tokens = tokenizers[0](
            texts, padding="max_length", max_length=NUM_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        return Tokens({0: tokens[:, None]}, torch.ones(len(texts), dtype=torch.long))

    def prompt_length(self, tokenizers: Sequence[Tokenizer]) -> int | None:
        return NUM_TOKENS - 1  # and the end

    def cut_captions(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> list[str]:
        texts = [caption.lower().strip() for caption in captions]
        lengths = map(len, tokenizers[0](texts, verbose=False).input_ids)
        return [caption for caption, length in zip(captions, lengths, strict=True) if length > NUM_TOKENS]

    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        (text_encoder,) = text_encoders
        ids = tokens.ids[0].flatten(1)  # [B L], one chunk
        mask = (ids != text_encoder.config.pad_token_id).long()
        return Prompts(text_encoder(ids, attention_mask=mask).last_hidden_state, mask)

    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        output = denoiser(
            noisy,
            encoder_hidden_states=prompts.embeddings,
            encoder_attention_mask=prompts.mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return output[:, : noisy.shape[1]]  # the other half predicts the variance, which samplers leave aside

    def pipeline(self, components: Components) -> PixArtSigmaPipeline:
        pipeline = PixArtSigmaPipeline(**components.pipeline_parts("transformer"))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, Any]:
        assert encoded.mask is not None
        return {
            "prompt_embeds": encoded.embeddings[:1],
            "prompt_attention_mask": encoded.mask[:1],
            "negative_prompt": None,
            "negative_prompt_embeds": encoded.embeddings[1:],
            "negative_prompt_attention_mask": encoded.mask[1:],
            "use_resolution_binning": False,  # images of the requested size
        }

    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        return {"modelspec.architecture": "pixart-sigma/lora", "modelspec.prediction_type": "epsilon"}
