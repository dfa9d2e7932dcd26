"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net with cross-attention, epsilon or v-prediction."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers import schedulers as diffusers_schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from finetune.config_loss import LossConfig
from finetune.models.base import Components, ModelFamily, ModelSource, Prompts, length_mask
from finetune.models.tokens import with_all_vectors
from finetune.objectives import Diffusion, Objective, rescale_zero_terminal_snr

INPAINTING = "StableDiffusionInpaintPipeline"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", INPAINTING)
NUM_BYTE_TOKENS = 512
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class StableDiffusion(ModelFamily):
    """Latent diffusion (arXiv 2112.10752) as Stable Diffusion 1.x and 2.x ship it."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
    lora_conv_targets = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
    text_encoder_lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    kohya_prefixes: ClassVar[dict[str, str]] = {"denoiser": "lora_unet", "text_encoders.0": "lora_te"}

    def scheduler(self, source: ModelSource) -> Any:
        _, name = pipeline_index(source)["scheduler"]
        return load_part(scheduler_class(name), source, "scheduler")

    def tokenizers(self, source: ModelSource) -> tuple[Any, ...]:
        pipeline_index(source)
        tokenizer = load_part(CLIPTokenizer, source, "tokenizer")
        if len(tokenizer) < NUM_BYTE_TOKENS:  # transformers 5 makes an empty one where there are no files
            raise ValueError(
                f"model.source: the tokenizer of {source.location} knows {len(tokenizer)} tokens, expected more than "
                f"the {NUM_BYTE_TOKENS} of single bytes; is tokenizer/vocab.json there and complete?"
            )
        return (tokenizer,)

    def is_inpainting(self, source: ModelSource) -> bool:
        return pipeline_index(source)["_class_name"] == INPAINTING

    def load(self, source: ModelSource) -> Components:
        scheduler = self.scheduler(source)
        weights = {"variant": source.variant, "use_safetensors": True, "torch_dtype": torch.float32}
        components = Components(
            denoiser=load_part(UNet2DConditionModel, source, "unet", weights),
            vae=load_part(AutoencoderKL, source, "vae", weights),
            text_encoders=(load_part(CLIPTextModel, source, "text_encoder", weights),),
            tokenizers=self.tokenizers(source),
            scheduler=scheduler,
        )
        check_channels(components, source, is_inpainting=self.is_inpainting(source))
        words, known = len(components.tokenizers[0]), components.text_encoders[0].config.vocab_size
        if not known // 2 < words <= known:
            raise ValueError(
                f"model.source: the tokenizer of {source.location} knows {words} tokens, its text encoder {known}; is "
                "tokenizer/vocab.json complete?"
            )
        return components

    def objective(self, scheduler: Any, options: LossConfig) -> Objective:
        config = scheduler.config
        stated = config.get("prediction_type", "epsilon")
        if options.prediction_type not in (None, stated):
            raise ValueError(
                f"loss.prediction_type: got {options.prediction_type}, but the checkpoint's scheduler says {stated}. "
                "Remove the option."
            )
        if stated not in PREDICTION_TYPES:
            raise ValueError(
                f"model.source: the scheduler's prediction_type is {stated}, expected one of "
                f"{', '.join(PREDICTION_TYPES)}."
            )
        alphas_cumprod = scheduler.alphas_cumprod.double()
        if options.zero_terminal_snr and stated == "epsilon":
            raise ValueError(
                "loss.zero_terminal_snr: got true for an epsilon model, whose last timestep would then carry no "
                "signal to learn. It needs a v-prediction checkpoint."
            )
        if options.zero_terminal_snr:  # twice changes nothing, and some schedulers ignore their own option
            alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
        return Diffusion(alphas_cumprod, stated, options)

    def sampling_scheduler(self, scheduler: Any, options: LossConfig) -> Any:
        if not options.zero_terminal_snr:
            return scheduler
        return DDIMScheduler.from_config(
            scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
        )

    def pixel_multiple(self, vae: Any) -> int:
        return 2 ** (len(vae.config.block_out_channels) - 1)

    def encode_images(self, vae: Any, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        return posterior.sample(list(generators)) * vae.config.scaling_factor

    def tokenize(self, tokenizers: Sequence[Any], captions: Sequence[str]) -> Prompts:
        (tokenizer,) = tokenizers
        length = tokenizer.model_max_length
        rows = []
        texts = [with_all_vectors(tokenizer, caption) for caption in captions]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids:
            pieces = [ids[start : start + length - 2] for start in range(0, max(len(ids), 1), length - 2)]
            rows.append([self._chunk(tokenizer, piece) for piece in pieces])
        longest = max(map(len, rows))
        empty = self._chunk(tokenizer, [])
        tokens = torch.tensor([row + [empty] * (longest - len(row)) for row in rows])
        return {"tokens": tokens, "chunks": torch.tensor([len(row) for row in rows])}

    def _chunk(self, tokenizer: Any, ids: list[int]) -> list[int]:
        padding = tokenizer.model_max_length - 2 - len(ids)
        return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]

    def encode_prompts(self, text_encoders: Sequence[Any], tokens: Prompts) -> Prompts:
        (text_encoder,) = text_encoders
        ids, chunks = tokens["tokens"], tokens["chunks"]
        embeddings = text_encoder(ids.flatten(0, 1)).last_hidden_state  # [B*N L D]
        embeddings = embeddings.unflatten(0, ids.shape[:2]).flatten(1, 2)  # [B N*L D]
        return {"embeddings": embeddings} | length_mask(chunks * ids.shape[2], embeddings.shape[1])

    def denoise(self, denoiser: nn.Module, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        if "filling" in prompts:  # latents, mask, latents of the picture with the hole: the order of diffusers
            noisy = torch.cat([noisy, prompts["filling"]], dim=1)
        return denoiser(
            noisy, t, encoder_hidden_states=prompts["embeddings"], encoder_attention_mask=prompts.get("mask")
        ).sample

    def pipeline(self, components: Components) -> StableDiffusionPipeline | StableDiffusionInpaintPipeline:
        kind = StableDiffusionInpaintPipeline if takes_filling(components) else StableDiffusionPipeline
        pipeline = kind(
            vae=components.vae,
            text_encoder=components.text_encoders[0],
            tokenizer=components.tokenizers[0],
            unet=components.denoiser,
            scheduler=components.scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]  (optional in diffusers, typed as required)
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_prompts(self, components: Components, prompt: str, negative_prompt: str) -> dict[str, Any]:
        """Both prompts get the same number of chunks, since classifier-free guidance runs them as one batch.

        An inpainting pipeline gets a picture that is hidden as a whole, whose size it adapts to that of the output.
        """
        device = components.text_encoders[0].device
        tokens = self.tokenize(components.tokenizers, [prompt, negative_prompt])
        tokens = {"tokens": tokens["tokens"].to(device), "chunks": tokens["chunks"].to(device)}
        embeddings = self.encode_prompts(components.text_encoders, tokens)["embeddings"]
        arguments: dict[str, Any] = {"prompt_embeds": embeddings[:1], "negative_prompt_embeds": embeddings[1:]}
        if takes_filling(components):
            arguments |= {"image": Image.new("RGB", (8, 8), "grey"), "mask_image": Image.new("L", (8, 8), 255)}
        return arguments

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


def takes_filling(components: Components) -> bool:
    """True where the U-Net takes a mask and the latents of a picture with a hole beside the noisy latents."""
    return components.denoiser.config.in_channels == 2 * components.vae.config.latent_channels + 1


def check_channels(components: Components, source: ModelSource, *, is_inpainting: bool) -> None:
    """Raises ValueError where the U-Net's channels are not those that the kind of pipeline feeds it."""
    channels, latents = components.denoiser.config.in_channels, components.vae.config.latent_channels
    expected = 2 * latents + 1 if is_inpainting else latents
    if channels == expected:
        return
    advice = "Is this another model's U-Net?"
    if takes_filling(components):
        advice = f'It is an inpainting U-Net: write "_class_name": "{INPAINTING}" in model_index.json.'
    elif channels == latents:
        advice = 'It is no inpainting U-Net: write "_class_name": "StableDiffusionPipeline" in model_index.json.'
    elif channels == latents + 1:
        advice = "Depth checkpoints are not supported: they need a depth map of every picture."
    raise ValueError(
        f"model.source: the U-Net of {source.location} takes {channels} channels, expected {expected} for "
        f"{'an inpainting' if is_inpainting else 'its'} pipeline. {advice}"
    )


def pipeline_index(source: ModelSource) -> dict[str, Any]:
    """Returns model_index.json; raises one clear sentence for a missing source, a single file, another family's
    pipeline, or an index that names what no Stable Diffusion pipeline has."""
    path = Path(source.location)
    if path.is_file():
        raise ValueError(
            f"model.source: {path} is a single file, expected a folder in diffusers layout. Convert it with diffusers' "
            "StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
        )
    index: Any
    if path.is_dir():
        index_file = path / "model_index.json"
        if not index_file.is_file():
            raise FileNotFoundError(
                f"model.source: {path} has no model_index.json; expected a folder in diffusers layout."
            )
        try:
            index = json.loads(index_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"model.source: {index_file} is no JSON: {error}.") from error
    elif len(path.parts) != 2 or path.is_absolute() or source.location.startswith("."):
        raise FileNotFoundError(f"model.source: no folder {path}, and a Hub id has the form owner/name.")
    else:
        try:
            index = DiffusionPipeline.load_config(source.location, revision=source.revision)
        except OSError as error:
            raise ValueError(
                f"model.source: {source.location} is no folder here and does not come from the Hub: "
                f"{first_line(error)} Check the name, log in with `hf auth login` if the model is gated, or give a "
                "local folder."
            ) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name not in PIPELINES:
        raise ValueError(
            f"model.source: model_index.json of {source.location} names the pipeline {name}, expected one of "
            f"{', '.join(PIPELINES)} (model.family sd: Stable Diffusion 1.x and 2.x)."
        )
    match index.get("scheduler"):
        case ["diffusers", str(scheduler)] if scheduler_class(scheduler) is not None:
            return index
        case other:
            raise ValueError(
                f"model.source: model_index.json of {source.location} names the scheduler {other}, expected "
                '["diffusers", "..."] with a scheduler of diffusers that has a beta schedule, such as DDIMScheduler.'
            )


def scheduler_class(name: str) -> Any:
    """Returns diffusers' scheduler class of that name, None where there is none or it is made without betas."""
    # The module imports its parts when they are asked for, and lists all of them before.
    value = getattr(diffusers_schedulers, name) if name in dir(diffusers_schedulers) else None
    if not (isinstance(value, type) and issubclass(value, SchedulerMixin)):
        return None
    return value if "beta_schedule" in inspect.signature(value).parameters else None


def load_part(kind: Any, source: ModelSource, part: str, options: dict[str, Any] | None = None) -> Any:
    """Returns one part of the pipeline; raises ValueError that names it where it does not load."""
    try:
        return kind.from_pretrained(source.location, subfolder=part, revision=source.revision, **(options or {}))
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"model.source: {part} of {source.location} does not load: {first_line(error)} Expected safetensors "
            "weights and their config.json in diffusers layout."
        ) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
