"""What a model family must answer; one file a family, stateless, components passed in.

Axes: B batch, C channels, H W latent height and width, L tokens, N chunks of a long prompt, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.config.loss import LossConfig
from finetune.config.sections import SINGLE_FILE, ModelConfig
from finetune.objectives.diffusion import Objective

Prompts = dict[str, Tensor]
"""What the denoiser is conditioned on: `embeddings` [B N*L D], `mask` [B N*L] where lengths differ (1 keeps a token),
`pooled` [B P] where the family has it, and `sizes` [B 6], whole pixels: height and width of the picture, top and left
of the crop in the picture scaled to cover the bucket, height and width of the bucket. For an inpainting model `filling`
[B 1+C H W]: 1 where the picture is hidden, else 0, then the latents of the picture with that part grey. Where a text
encoder or its tokens are trained: `tokens` [B N L] and `chunks` [B], for further tokenizers `tokens.1`, ...,
`tokens.mask` [B N L], which of them are no padding, where their numbers do not say so, `encoded.1`, ... [B L D], what
text encoders that never train made of theirs, and `empty` [B], true for captions without a word, where the family asks;
encoded inside `Network`."""


@dataclass(frozen=True)
class ModelSource:
    """Where the weights come from: a folder in diffusers layout, a Hub id, or a single file."""

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
    prediction_type: str | None = None
    """For a single file: what it predicts, where the user says so and its weights do not."""

    @staticmethod
    def from_config(model: ModelConfig, prediction_type: str | None = None) -> "ModelSource":
        """Returns the source that the options name."""
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
        """Where configs, tokenizers and the scheduler are."""
        return str(self.config) if self.is_single_file else self.location


@dataclass(frozen=True)
class Components:
    """The parts of a loaded model, under the names of the diffusers pipeline's arguments where those differ by
    family."""

    denoiser: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler: Any


@dataclass(frozen=True)
class SingleFileLayer:
    """Where the single-file layout of adapters has a layer of the denoiser."""

    name: str
    """Name of the layer, with dots."""
    place: int = 0
    """Its number among the layers that the file holds as one."""
    sizes: tuple[int, ...] = ()
    """How many outputs each of those has; empty where the file has the layer to itself."""
    swapped: bool = False
    """The file has the second half of the outputs first."""


class ModelFamily(ABC):
    """One architecture: how to load it, encode for it, call its denoiser, and build its pipeline."""

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
    guidance_scale: ClassVar[float] = 7.5
    """What pictures are made with where the user does not say."""
    knows_negative_prompts: ClassVar[bool] = True
    """False where guidance is distilled into the denoiser, which then runs on the prompt alone."""

    def load(self, source: ModelSource) -> Components:
        """Loads all parts in float32 on the CPU; refuses a checkpoint of another family, and parts that do not belong
        together."""
        scheduler, tokenizers = self.scheduler(source), self.tokenizers(source)
        components = Components(
            self.denoiser(source), self.vae(source), self.text_encoders(source), tokenizers, scheduler
        )
        self.check(components, source)
        return components

    @abstractmethod
    def denoiser(self, source: ModelSource) -> Any:
        """Loads the denoiser alone on the CPU, in float32 or as the source says."""

    @abstractmethod
    def vae(self, source: ModelSource) -> Any:
        """Loads the autoencoder alone, in float32 on the CPU."""

    @abstractmethod
    def text_encoders(self, source: ModelSource) -> tuple[Any, ...]:
        """Loads the text encoders alone, in float32 on the CPU."""

    @abstractmethod
    def check(self, components: Components, source: ModelSource) -> None:
        """Raises ValueError where the parts do not belong together."""

    @abstractmethod
    def tokenizers(self, source: ModelSource) -> tuple[Any, ...]:
        """Loads the tokenizers alone; refuses a checkpoint of another family."""

    @abstractmethod
    def scheduler(self, source: ModelSource) -> Any:
        """Loads the scheduler alone; refuses a checkpoint of another family."""

    def warnings(self, source: ModelSource) -> list[str]:
        """Returns what the user should know of the checkpoint."""
        return []

    @abstractmethod
    def is_inpainting(self, source: ModelSource) -> bool:
        """True for a checkpoint whose denoiser is told of a hidden part of the picture, by `Prompts` filling."""

    def filling_channels(self, components: Components) -> int:
        """Returns the channels of `Prompts` filling; 0 for a model without."""
        return components.denoiser.config.in_channels - components.vae.config.latent_channels

    @abstractmethod
    def sampling_scheduler(self, scheduler: Any, options: LossConfig) -> Any:
        """Returns the scheduler that pictures of the trained model are made with."""

    @abstractmethod
    def objective(self, scheduler: Any, options: LossConfig) -> Objective:
        """Returns the objective the checkpoint's scheduler states; an option that contradicts it is a ValueError."""

    @abstractmethod
    def pixel_multiple(self, vae: Any) -> int:
        """Returns the number that picture sides must be a multiple of."""

    def pixels_per_latent(self, vae: Any) -> int:
        """Returns how many pixels a latent stands for along each side."""
        return 2 ** (len(vae.config.block_out_channels) - 1)

    def longest_side(self, components: Components) -> int | None:
        """Returns how many pixels a side may have at most, where the denoiser's positions are a table that ends; None
        where they go on."""
        return None

    @abstractmethod
    def encode_images(self, vae: Any, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Returns scaled latents [B C H W] sampled from the posterior of pixels [B 3 h w] in [-1, 1], one generator a
        picture."""

    @abstractmethod
    def tokenize(self, tokenizers: Sequence[Any], captions: Sequence[str]) -> Prompts:
        """Returns `tokens` [B N L] and `chunks` [B]: long captions fill several chunks, or are cut where `cut_captions`
        says so."""

    def cut_captions(self, tokenizers: Sequence[Any], captions: Sequence[str]) -> list[str]:
        """Returns the captions of which the denoiser is told only the beginning, however they are encoded."""
        return []

    def prompt_length(self, tokenizers: Sequence[Any]) -> int | None:
        """Returns how many tokens of a caption the denoiser is told of at most; None where it is told all."""
        return None

    def trained_text_encoders(self, text_encoders: Sequence[Any]) -> tuple[Any, ...]:
        """Returns those that `train.text_encoder` trains, which stand before the others; by default all."""
        return tuple(text_encoders)

    def encode_frozen(self, text_encoders: Sequence[Any], tokens: Prompts) -> Prompts:
        """Returns the tokens with `encoded.N` in the place of those whose text encoder N never trains."""
        return tokens

    @abstractmethod
    def encode_prompts(self, text_encoders: Sequence[Any], tokens: Prompts) -> Prompts:
        """Returns what the denoiser is conditioned on for tokens from `tokenize`, or from `encode_frozen`, after which
        the trained text encoders are enough."""

    def unread_layers(self, text_encoders: Sequence[Any]) -> tuple[str, ...]:
        """Returns the layers of the text encoders that no prediction depends on, by their names in `Network`; they do
        not train."""
        return ()

    @abstractmethod
    def denoise(self, denoiser: nn.Module, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        """Returns the network's prediction [B C H W]."""

    @abstractmethod
    def pipeline(self, components: Components) -> Any:
        """Returns the diffusers pipeline over the given parts, without copying them."""

    def pipeline_tokens(self, tokenizers: Sequence[Any], prompt: str, negative_prompt: str) -> Prompts:
        """Returns the tokens of a prompt of any length and, where the family knows one, of its negative prompt, as one
        batch: classifier-free guidance runs both together, so they have the same number of chunks."""
        assert self.knows_negative_prompts or not negative_prompt, "the options were checked"
        return self.tokenize(tokenizers, [prompt, negative_prompt] if self.knows_negative_prompts else [prompt])

    @abstractmethod
    def pipeline_arguments(self, components: Components, encoded: Prompts) -> dict[str, Any]:
        """Returns the pipeline's arguments for what `encode_prompts` makes of `pipeline_tokens`; all of the image of an
        inpainting model is hidden."""

    def pipeline_prompts(self, components: Components, prompt: str, negative_prompt: str) -> dict[str, Any]:
        """Returns the pipeline's arguments for texts of any length, encoded now."""
        tokens = self.pipeline_tokens(components.tokenizers, prompt, negative_prompt)
        device = components.text_encoders[0].device
        encoded = self.encode_prompts(
            components.text_encoders, {key: value.to(device) for key, value in tokens.items()}
        )
        return self.pipeline_arguments(components, encoded)

    def prompts_by(self, pipeline: Any, prompt: str) -> Prompts:
        """Returns what the pipeline itself makes of a prompt that is short enough for it, on the CPU."""
        embeddings, _ = pipeline.encode_prompt(
            prompt=prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"embeddings": embeddings}

    def single_file_layer(self, denoiser: Any, module: str) -> SingleFileLayer:
        """Returns where the single-file layout has that layer of the denoiser; by default under its own name."""
        return SingleFileLayer(module)

    def diffusers_reads_single_file(self, denoiser: Any, modules: Sequence[str]) -> bool:
        """True where diffusers' `load_lora_weights` takes all of a single file that adapts these layers of the
        denoiser."""
        return True

    @abstractmethod
    def model_spec(self, components: Components, objective: Objective) -> dict[str, str]:
        """Returns the ModelSpec and `ss_` fields that tell other tools which base model an adapter fits."""


def is_token_key(key: str) -> bool:
    """True for the parts of `Prompts` that `encode_prompts` reads: tokens, tokens.1, ..., tokens.mask, chunks,
    encoded.1, ..., empty."""
    return key.partition(".")[0] in ("tokens", "chunks", "encoded", "empty")


def is_inside(name: str, layers: Sequence[str]) -> bool:
    """True for the name of one of the layers, or of something in it."""
    return any(f"{name}.".startswith(f"{layer}.") for layer in layers)


def whole_sizes(num: int, height: int, width: int) -> Tensor:
    """Returns `Prompts` sizes [num 6] of pictures that are neither scaled nor cropped."""
    return torch.tensor([[height, width, 0, 0, height, width]]).expand(num, -1)


def stack_prompts(rows: Sequence[Prompts]) -> Prompts:
    """Returns single rows (without axis B) as one batch; shorter embeddings get zeros and a mask that hides them."""
    longest = max(len(row["embeddings"]) for row in rows)
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if key != "embeddings"}
    batch["embeddings"] = torch.stack(
        [nn.functional.pad(row["embeddings"], (0, 0, 0, longest - len(row["embeddings"]))) for row in rows]
    )
    lengths = torch.tensor([len(row["embeddings"]) for row in rows])
    return batch | length_mask(lengths, longest)


def length_mask(lengths: Tensor, longest: int) -> Prompts:
    """Returns {"mask": [B longest]} with 1 for the first lengths[b] tokens, or nothing where all are equally long."""
    if bool((lengths == longest).all()):
        return {}
    return {"mask": (torch.arange(longest, device=lengths.device) < lengths[:, None]).long()}


class AutoencoderNetwork(nn.Module):
    """The root that Accelerate wraps while an autoencoder is trained."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the decoded pictures [B 3 h w] and their posterior's mean and log variance [B C H W]; noise
        [B C H W] draws from it."""
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar

    def checkpoint_gradients(self) -> None:
        """Recomputes activations in the backward pass."""
        self.vae.enable_gradient_checkpointing()


class Network(nn.Module):
    """The one root that Accelerate wraps: the denoiser, and the text encoders while they or tokens of theirs train."""

    def __init__(self, family: ModelFamily, denoiser: nn.Module, text_encoders: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.family = family
        self.denoiser = denoiser
        self.text_encoders = nn.ModuleList(text_encoders)

    @staticmethod
    def from_components(family: ModelFamily, components: Components, *, text_encoder: bool) -> "Network":
        """Returns the denoiser, and where they train too, those text encoders that do."""
        text_encoders = family.trained_text_encoders(components.text_encoders) if text_encoder else ()
        return Network(family, components.denoiser, text_encoders)

    def forward(self, noisy: Tensor, t: Tensor, prompts: Prompts) -> Tensor:
        """Returns the prediction [B C H W] for noisy latents at timesteps t [B]."""
        dtype = next(self.denoiser.parameters()).dtype
        if "tokens" in prompts:
            others = {key: value for key, value in prompts.items() if not is_token_key(key)}
            prompts = others | self.family.encode_prompts(list(self.text_encoders), prompts)
        prompts = {key: value.to(dtype) if value.is_floating_point() else value for key, value in prompts.items()}
        return self.family.denoise(self.denoiser, noisy.to(dtype), t, prompts)

    def checkpoint_gradients(self) -> None:
        """Recomputes activations in the backward pass."""
        self.denoiser.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        for text_encoder in self.text_encoders:
            text_encoder.gradient_checkpointing_enable()  # pyright: ignore[reportCallIssue]
