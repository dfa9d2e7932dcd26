"""The interface of a model family: stateless, with components passed in.

Axes: B batch, C channels, H W latent height and width, L tokens, N chunks of a long prompt, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from finetune.config.loss import LossConfig
from finetune.config.sections import SINGLE_FILE, ModelConfig
from finetune.models.interfaces import VAE, Denoiser, PromptEncoder, Scheduler, TextEncoder, Tokenizer
from finetune.models.prompts import Condition, Prompts, Tokens
from finetune.objectives.diffusion import Objective


@dataclass(frozen=True)
class ModelSource:
    """The place of the weights. A folder is in diffusers layout; else it is a Hub id or a single file."""

    location: str
    revision: str | None = None
    variant: str | None = None
    config: Path | None = None
    """For a single file: folder whose configs, tokenizer and scheduler go with its weights."""
    without: tuple[str, ...] = ()
    """Parts that are left out, of those that the family can do without."""
    as_stored: bool = False
    """The denoiser's weights stay bfloat16 or float16 where all are stored so; else all parts become float32."""
    vae: str | None = None
    """A folder, Hub id or single file with another VAE; none for the model's own."""
    is_empty: bool = False
    """Parts are built from their configs alone, on the meta device: for the names and shapes of layers."""
    prediction_type: str | None = None
    """For a single file: what it predicts, where the user says so and its weights do not."""

    @staticmethod
    def from_config(model: ModelConfig, prediction_type: str | None = None) -> "ModelSource":
        """Read the source from the options."""
        return ModelSource(
            model.source,
            model.revision,
            model.variant,
            model.config,
            model.without,
            vae=model.vae,
            prediction_type=prediction_type,
        )

    @property
    def is_single_file(self) -> bool:
        """True where one file holds the weights of all parts."""
        return self.location.endswith(SINGLE_FILE) or Path(self.location).is_file()

    @property
    def configs(self) -> str:
        """The place of configs, tokenizers and the scheduler."""
        return str(self.config) if self.is_single_file else self.location


@dataclass(frozen=True)
class Components:
    """The parts of a loaded model."""

    denoiser: Denoiser
    vae: VAE
    text_encoders: tuple[TextEncoder, ...]
    tokenizers: tuple[Tokenizer, ...]
    scheduler: Scheduler

    def pipeline_parts(self, denoiser: str) -> dict[str, Any]:
        """Name the parts as diffusers' pipelines do, the denoiser as given."""
        parts: dict[str, object] = {denoiser: self.denoiser, "vae": self.vae, "scheduler": self.scheduler}
        for kind, found in (("text_encoder", self.text_encoders), ("tokenizer", self.tokenizers)):
            parts |= {f"{kind}_{number}" if number > 1 else kind: part for number, part in enumerate(found, 1)}
        return parts


@dataclass(frozen=True)
class SingleFileLayer:
    """The place of a denoiser's layer in the single-file layout of adapters."""

    name: str
    """Name of the layer, with dots."""
    place: int = 0
    """Its number among the layers that the file holds as one."""
    sizes: tuple[int, ...] = ()
    """How many outputs each of those has; empty where the file has the layer to itself."""
    swapped: bool = False
    """The file has the second half of the outputs first."""


class ModelFamily(ABC):
    """One architecture: its loading, encoding, denoiser and pipeline."""

    title: ClassVar[str]
    """The models' public name."""
    pipelines: ClassVar[tuple[str, ...]]
    """Names of diffusers' pipelines whose checkpoints it reads."""
    single_files: ClassVar[dict[str, str]] = {}
    """Kinds of single files that it reads, as diffusers' `infer_diffusers_model_type` names them, and the pipeline of
    each; none has to be converted to a folder first."""
    refused_pipelines: ClassVar[dict[str, str]] = {}
    """Those of its kin that it does not read, and what to say of them."""
    scheduler_option: ClassVar[str]
    """What tells its schedulers from others: an option that they are made with."""
    repeated_blocks: ClassVar[tuple[str, ...]] = ()
    """Classes of the denoiser's blocks, where diffusers does not name them (`_repeated_blocks`)."""
    optional_parts: ClassVar[tuple[str, ...]] = ()
    """Parts of a checkpoint, as its index names them, that `model.without` may leave out."""
    no_new_tokens: ClassVar[str | None] = None
    """Why its tokenizers take no new tokens; None where they do."""
    lora_targets: ClassVar[tuple[str, ...]]
    """Layers of the denoiser that LoRA adapts when the user names none."""
    lora_conv_targets: ClassVar[tuple[str, ...]]
    """Convolutions of the denoiser that LoRA adapts too where the user asks for them."""
    text_encoder_lora_targets: ClassVar[tuple[str, ...]]
    reads_lora: ClassVar[bool] = True
    """Whether diffusers' pipeline has `load_lora_weights`; without, adapters of other kinds are trained."""
    reads_text_encoder_lora: ClassVar[bool] = True
    """Whether `load_lora_weights` takes adapters of the text encoders too; without, LoRA trains none of them."""
    kohya_prefixes: ClassVar[dict[str, str]]
    """Prefix of each component's keys in the single-file LoRA layout: {"denoiser": ..., "text_encoders.0": ...}."""
    token_keys: ClassVar[tuple[str, ...]] = ("emb_params",)
    """Name of each text encoder's vectors in the file of a new token that programs other than diffusers read."""
    sd_scripts_blocks: ClassVar[tuple[str, ...]] = ()
    """Where sd-scripts looks for adapters in the denoiser, as parts of layers' names; empty where it takes all."""
    original_vae: ClassVar[str] = "first_stage_model."
    """How the names of the autoencoder's weights begin in the model's first published layout."""
    implementation: ClassVar[str] = "https://github.com/Stability-AI/generative-models"
    """The code of that layout, for ModelSpec."""
    guidance_scale: ClassVar[float] = 7.5
    """Guidance of images where the user does not say."""
    unfit_samplers: ClassVar[tuple[str, ...]] = ()
    """Scheduler classes that diffusers' pipeline of it cannot use, though their noise would fit."""
    knows_negative_prompts: ClassVar[bool] = True
    """False where guidance is distilled into the denoiser, which then runs on the prompt alone."""

    def load(self, source: ModelSource) -> Components:
        """Load all parts in float32 on the CPU. Another family's, and parts of different models, are refused."""
        scheduler, tokenizers = self.scheduler(source), self.tokenizers(source)
        components = Components(
            self.denoiser(source), self.vae(source), self.text_encoders(source), tokenizers, scheduler
        )
        self.check(components, source)
        return components

    @abstractmethod
    def denoiser(self, source: ModelSource) -> Denoiser:
        """Load the denoiser alone on the CPU. It is in float32 or as the source says."""

    @abstractmethod
    def vae(self, source: ModelSource) -> VAE:
        """Load the autoencoder alone, in float32 on the CPU."""

    @abstractmethod
    def text_encoders(self, source: ModelSource) -> tuple[TextEncoder, ...]:
        """Load the text encoders alone, in float32 on the CPU."""

    @abstractmethod
    def check(self, components: Components, source: ModelSource) -> None:
        """Raise ValueError where the parts do not belong together."""

    @abstractmethod
    def tokenizers(self, source: ModelSource) -> tuple[Tokenizer, ...]:
        """Load the tokenizers alone; refuse a checkpoint of another family."""

    @abstractmethod
    def scheduler(self, source: ModelSource) -> Scheduler:
        """Load the scheduler alone; refuse a checkpoint of another family."""

    def warnings(self, source: ModelSource) -> list[str]:
        """List what the user should know of the checkpoint."""
        return []

    def is_inpainting(self, source: ModelSource) -> bool:
        """Recognise a checkpoint that takes `Prompts.filling`."""
        return False

    def filling_channels(self, components: Components) -> int:
        """Count the channels of `Prompts.filling`; 0 for a model without."""
        return components.denoiser.config.in_channels - components.vae.config.latent_channels

    def sampling_scheduler(self, scheduler: Scheduler, options: LossConfig) -> Scheduler:
        """Choose the scheduler that draws images of the trained model. By default the checkpoint's."""
        return scheduler

    @abstractmethod
    def objective(self, scheduler: Scheduler, options: LossConfig) -> Objective:
        """Read the objective from the checkpoint's scheduler. An option that contradicts it is a ValueError."""

    def pixels_per_latent(self, vae: VAE) -> int:
        """Count the pixels of a latent along each side."""
        return 2 ** (len(vae.config.block_out_channels) - 1)

    def pixel_multiple(self, vae: VAE) -> int:
        """Get the number that image sides must be a multiple of. By default sides are whole latents."""
        return self.pixels_per_latent(vae)

    def longest_side(self, components: Components) -> int | None:
        """Count the most pixels of a side. It is None where the denoiser's positions are not a table that ends."""
        return None

    @abstractmethod
    def encode_images(self, vae: VAE, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Encode pixels [B 3 h w] in [-1, 1] to scaled latents [B C H W]. They are drawn, one generator per image."""

    @abstractmethod
    def tokenize(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> Tokens:
        """Split captions into tokens. Long ones fill several chunks, or are cut where `cut_captions` says so."""

    def cut_captions(self, tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> list[str]:
        """List the captions of which the denoiser reads only the beginning."""
        return []

    def prompt_length(self, tokenizers: Sequence[Tokenizer]) -> int | None:
        """Count the tokens of a caption that the denoiser reads. It is None where it reads all."""
        return None

    def trained_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[TextEncoder, ...]:
        """Select the text encoders that `train.text_encoder` trains. They come before the others; by default all."""
        return tuple(text_encoders)

    def encode_frozen(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Tokens:
        """Encode the ids of text encoders that never train. They go from `ids` to `encoded`."""
        return tokens

    @abstractmethod
    def encode_prompts(self, text_encoders: Sequence[TextEncoder], tokens: Tokens) -> Prompts:
        """Encode tokens as the condition of the denoiser. After `encode_frozen`, trained text encoders are enough."""

    def unread_layers(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        """Name text encoders' layers that no prediction depends on, as in `Network`. They do not train."""
        return ()

    @abstractmethod
    def denoise(self, denoiser: Denoiser, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        """Compute the network's prediction [B C H W]."""

    @abstractmethod
    def pipeline(self, components: Components) -> Any:
        """Build diffusers' pipeline over the parts, without copying them."""

    def pipeline_tokens(self, tokenizers: Sequence[Tokenizer], prompt: str, negative_prompt: str) -> Tokens:
        """Split a prompt of any length and its negative prompt into tokens. They are one batch where the family knows
        negative prompts: classifier-free guidance runs both together, so they have the same number of chunks."""
        assert self.knows_negative_prompts or not negative_prompt, "the options were checked"
        return self.tokenize(tokenizers, [prompt, negative_prompt] if self.knows_negative_prompts else [prompt])

    @abstractmethod
    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, object]:
        """Give the pipeline's arguments for encoded `pipeline_tokens`. To inpaint, all of an image is hidden."""

    def pipeline_prompts(self, components: Components, prompt: str, negative_prompt: str) -> dict[str, object]:
        """Give the pipeline's arguments for texts of any length, encoded now."""
        tokens = self.pipeline_tokens(components.tokenizers, prompt, negative_prompt)
        device = components.text_encoders[0].device
        return self.pipeline_arguments(components, self.encode_prompts(components.text_encoders, tokens.to(device)))

    def prompts_by(self, pipeline: PromptEncoder, prompt: str) -> Prompts:
        """Encode a short prompt as the pipeline itself does, on the CPU."""
        embeddings, _ = pipeline.encode_prompt(
            prompt=prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Prompts(embeddings)

    def single_file_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        """Find the single-file layout's place of the denoiser's layer. By default it has its own name."""
        return SingleFileLayer(module)

    def original_layer(self, denoiser: Denoiser, module: str) -> SingleFileLayer:
        """Find the place of a layer in the model's first published layout."""
        return self.single_file_layer(denoiser, module)

    def original_text_encoders(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        """Name the text encoders as ComfyUI does, in order."""
        return ("clip_l", "clip_g", "t5xxl")

    def original_weight(self, denoiser: Denoiser, name: str) -> SingleFileLayer:
        """Find the place of a weight of the denoiser in that layout. Its name ends with the kind, such as bias."""
        module, _, kind = name.rpartition(".")
        layer = self.original_layer(denoiser, module)
        return replace(layer, name=f"{layer.name}.{kind}")

    def original_text_starts(self, text_encoders: Sequence[TextEncoder]) -> tuple[str, ...]:
        """Say how the names of text encoders' weights begin there. Names of open_clip begin with one that ends in
        `.model.`."""
        names = self.original_text_encoders(text_encoders)
        return tuple(f"text_encoders.{name}.transformer." for name in names[: len(text_encoders)])

    def diffusers_reads_original(self, denoiser: Denoiser) -> bool:
        """Tell if diffusers' `from_single_file` reads a model of this size."""
        return True

    def diffusers_reads_single_file(self, denoiser: Denoiser, modules: Sequence[str]) -> bool:
        """Tell if diffusers reads all of a single file. It adapts these layers of the denoiser."""
        return True

    @abstractmethod
    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        """Give the ModelSpec and `ss_` fields of a base model. They tell other tools which one an adapter fits."""


def is_inside(name: str, layers: Sequence[str]) -> bool:
    """True for the name of a layer, or of something in it."""
    return any(f"{name}.".startswith(f"{layer}.") for layer in layers)


class AutoencoderNetwork(nn.Module):
    """The root that Accelerate wraps while an autoencoder is trained."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode images [B 3 h w] after encoding them. Also return the posterior's mean and log variance [B C H W];
        noise [B C H W] draws from it."""
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass."""
        self.vae.enable_gradient_checkpointing()


class Network(nn.Module):
    """The one root that Accelerate wraps. Text encoders are in it while they or tokens of theirs train."""

    def __init__(self, family: ModelFamily, denoiser: Denoiser, text_encoders: Sequence[TextEncoder] = ()) -> None:
        super().__init__()
        self.family = family
        self.denoiser = denoiser
        self.text_encoders = nn.ModuleList(text_encoders)

    @property
    def trained_text_encoders(self) -> Sequence[TextEncoder]:
        return cast("list[TextEncoder]", list(self.text_encoders))

    @staticmethod
    def from_components(family: ModelFamily, components: Components, *, text_encoder: bool) -> "Network":
        """Take the denoiser, and where they train, the text encoders."""
        text_encoders = family.trained_text_encoders(components.text_encoders) if text_encoder else ()
        return Network(family, components.denoiser, text_encoders)

    def forward(self, noisy: Tensor, t: Tensor, prompts: Condition) -> Tensor:
        """Predict [B C H W] for noisy latents at timesteps t [B]."""
        dtype = next(self.denoiser.parameters()).dtype
        if isinstance(prompts, Tokens):
            encoded = self.family.encode_prompts(self.trained_text_encoders, prompts)
            prompts = replace(encoded, sizes=prompts.sizes, filling=prompts.filling)
        prompts = prompts.map(lambda column: column.to(dtype) if column.is_floating_point() else column)
        return self.family.denoise(self.denoiser, noisy.to(dtype), t, prompts)

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass."""
        self.denoiser.enable_gradient_checkpointing()
        for text_encoder in self.trained_text_encoders:
            text_encoder.gradient_checkpointing_enable()
