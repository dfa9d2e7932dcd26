"""Options of pretraining: sizes of a new model, and stages; torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from finetune.config.evaluate import ScoringConfig
from finetune.config.facts import Bound, Count, Decay, NotNegative, Positive, Resume, at_least
from finetune.config.mask import MaskConfig
from finetune.config.recipes import no_small_files
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig
from finetune.config.train import TrainConfig, all_weights

NEW = "new"
Stage = Literal["all", "tokenizer", "autoencoder", "denoiser"]
WIDTHS = Bound(lambda value: value and all(width >= 8 and width % 8 == 0 for width in value), "multiples of 8")
WIDTH = Bound(lambda value: value >= 8 and value % 8 == 0, "a multiple of 8")


@dataclass(frozen=True)
class ArchitectureConfig:
    """Sizes of a new model, which are fixed once it is made."""

    vae_channels: Annotated[tuple[int, ...], WIDTHS] = (32, 64, 64)
    """Width of each level of the VAE; each level after the first halves the image."""
    vae_layers: Count = 1
    """Residual layers per level of the VAE's encoder; its decoder has one more."""
    latent_channels: Count = 4
    """Channels of the latents; diffusers' inpainting pipeline takes 4 only."""
    unet_channels: Annotated[tuple[int, ...], WIDTHS] = (64, 128, 192)
    """Width of each level of the U-Net; each level after the first halves the latents."""
    unet_layers: Count = 1
    """Residual layers per level of the U-Net on its way down; one more on its way up."""
    unet_plain_levels: int = 1
    """The first levels, which have convolutions only; the others attend to the prompt too."""
    head_width: int = 32
    """Channels per attention head of the U-Net."""
    text_width: Annotated[int, WIDTH] = 128
    """Width of the text encoder's embeddings."""
    text_layers: Count = 2
    """Layers of the text encoder."""
    text_length: Annotated[int, at_least(4)] = 16
    """Tokens of a prompt; longer prompts are encoded in chunks of this length."""
    vocabulary: Annotated[int, at_least(514)] = 2048
    """Most tokens that the tokenizer learns from the captions, including the 512 of single bytes and the two of start
    and end."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"
    """What the U-Net predicts."""
    beta_start: float = 0.00085
    """Noise added by the first of 1000 timesteps (scaled_linear schedule)."""
    beta_end: float = 0.012
    """Noise added by the last timestep."""

    def problems(self) -> Iterator[str]:
        if not 0 <= self.unet_plain_levels <= len(self.unet_channels) - 1:
            yield (
                f"architecture.unet_plain_levels: got {self.unet_plain_levels}, expected 0 to "
                f"{len(self.unet_channels) - 1}: one of the {len(self.unet_channels)} levels must attend to the prompt."
            )
        if self.head_width < 1 or any(
            width % self.head_width for width in self.unet_channels[self.unet_plain_levels :]
        ):
            yield (
                f"architecture.head_width: got {self.head_width}, expected a divisor of the attending levels' widths."
            )
        if not 0 < self.beta_start < self.beta_end < 1:
            yield (
                f"architecture.beta_start, beta_end: got {self.beta_start}, {self.beta_end}, expected rising numbers "
                "between 0 and 1."
            )

    @property
    def pixel_multiple(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.vae_channels) - 1)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The stage that trains the VAE. The sections train and optim are those of the stage after it."""

    steps: Count = 2000
    """Optimizer steps."""
    batch_size: Count = 16
    """Images per process and forward pass."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    ema_decay: Decay | None = 0.99
    """Decay of the exponential moving average of the weights."""
    kl_weight: NotNegative = 1e-3
    """Weight of the latents' divergence from a standard normal, in nats per pixel value."""
    edge_weight: NotNegative = 1.0
    """Weight of the error of the differences between neighbouring pixels, for thin lines."""


def whole_images(mask: MaskConfig) -> Iterator[str]:
    """Refuse masks."""
    if mask.kind != "none":
        yield f"mask.kind: got {mask.kind}, but pretraining takes whole images. Remove it."


def stages_source(model: ModelConfig, stage: Stage) -> Iterator[str]:
    """Refuse a source that does not fit the stage."""
    if model.source == NEW and stage in ("autoencoder", "denoiser"):
        yield f"model.source: got new with stage {stage}, expected the pipeline that the stage before it wrote."
    if model.source != NEW and stage in ("all", "tokenizer"):
        yield (
            f"model.source: got {model.source} with stage {stage}, which makes a new model. Remove it, "
            "or name a later stage."
        )


def trains_text_encoder(train: LoopConfig) -> Iterator[str]:
    """Refuse a new text encoder that is not trained."""
    if not train.text_encoder:
        yield "train.text_encoder: got false, but a new text encoder knows nothing before it is trained. Remove it."


def whole_latents(model: ModelConfig, data: DataConfig, architecture: ArchitectureConfig) -> Iterator[str]:
    """Refuse buckets whose sides are not whole latents."""
    if model.source == NEW and data.bucket_step > 0 and data.bucket_step % architecture.pixel_multiple:
        yield (
            f"data.bucket_step: got {data.bucket_step}, expected a multiple of {architecture.pixel_multiple}, the "
            "pixels of a latent with this many levels in architecture.vae_channels."
        )


def no_base_model(evaluate: ScoringConfig) -> Iterator[str]:
    """Refuse scores against a base model that there is not."""
    if evaluate.every:
        yield (
            f"evaluate.every: got {evaluate.every}, but scores compare with a base model, and a new one has none. "
            "Remove it."
        )


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Train a latent diffusion model from scratch."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(NEW), kw_only=True)
    train: LoopConfig = field(default_factory=lambda: LoopConfig(text_encoder=True, ema_decay=0.999))
    cache: Annotated[CacheConfig, Resume.FREE] = field(default_factory=lambda: CacheConfig(text=False))
    stage: Stage = "all"
    """all runs the three in output.folder/tokenizer, output.folder/autoencoder and output.folder; each alone continues
    from the pipeline in model.source."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)

    rules = (
        *(*TrainConfig.rules, all_weights, whole_images, stages_source, trains_text_encoder, whole_latents),
        *(no_base_model, no_small_files),
    )


def autoencoder_stage(config: PretrainConfig) -> PretrainConfig:
    """Return the config of the run that trains the VAE of model.source. One that is already such stays as it is."""
    options = config.autoencoder
    return replace(
        config,
        stage="autoencoder",
        train=replace(
            config.train,
            steps=options.steps,
            epochs=None,
            batch_size=options.batch_size,
            accumulation=1,
            ema_decay=options.ema_decay,
        ),
        optim=replace(config.optim, lr=options.lr, text_encoder_lr=None),
        cache=replace(config.cache, latents=False),
        validation=replace(config.validation, num_timesteps=1),
        preview=replace(config.preview, prompts=()),
    )
