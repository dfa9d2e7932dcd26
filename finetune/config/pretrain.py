"""The options of pretraining: the sizes of a new model, and the stages it is trained in; no torch here."""

from dataclasses import dataclass, field, replace
from typing import Literal

from finetune.config.sections import CacheConfig, LoopConfig, ModelConfig, TrainConfig, packed_full

NEW = "new"


@dataclass(frozen=True)
class ArchitectureConfig:
    """Sizes of a new model; they are fixed once the model is made."""

    vae_channels: tuple[int, ...] = (32, 64, 64)
    """Width of each level of the VAE; each level after the first halves the image."""
    vae_layers: int = 1
    """Residual layers per level of the VAE's encoder; its decoder has one more."""
    latent_channels: int = 4
    """Channels of the latents; diffusers' inpainting pipeline takes 4 only."""
    unet_channels: tuple[int, ...] = (64, 128, 192)
    """Width of each level of the U-Net; each level after the first halves the latents."""
    unet_layers: int = 1
    """Residual layers per level of the U-Net on its way down; one more on its way up."""
    unet_plain_levels: int = 1
    """The first levels, which have convolutions only; the others attend to the prompt too."""
    head_width: int = 32
    """Channels per attention head of the U-Net."""
    text_width: int = 128
    """Width of the text encoder's embeddings."""
    text_layers: int = 2
    """Layers of the text encoder."""
    text_length: int = 16
    """Tokens of a prompt; longer prompts are encoded in chunks of this length."""
    vocabulary: int = 2048
    """Most tokens that the tokenizer learns from the captions, with the 512 of single bytes and the two of start and
    end."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"
    """What the U-Net predicts."""
    beta_start: float = 0.00085
    """Noise added by the first of 1000 timesteps (scaled_linear schedule)."""
    beta_end: float = 0.012
    """Noise added by the last timestep."""

    def problems(self) -> list[str]:
        found = []
        for name, widths in (("vae_channels", self.vae_channels), ("unet_channels", self.unet_channels)):
            if not widths or any(width < 8 or width % 8 for width in widths):
                shown = " ".join(map(str, widths)) or "nothing"
                found.append(f"architecture.{name}: got {shown}, expected multiples of 8.")
        if not 0 <= self.unet_plain_levels <= len(self.unet_channels) - 1:
            found.append(
                f"architecture.unet_plain_levels: got {self.unet_plain_levels}, expected 0 to "
                f"{len(self.unet_channels) - 1}: one of the {len(self.unet_channels)} levels must attend to the prompt."
            )
        if self.head_width < 1 or any(
            width % self.head_width for width in self.unet_channels[self.unet_plain_levels :]
        ):
            found.append(
                f"architecture.head_width: got {self.head_width}, expected a divisor of the attending levels' widths."
            )
        if self.text_width < 8 or self.text_width % 8:
            found.append(f"architecture.text_width: got {self.text_width}, expected a multiple of 8.")
        if self.text_length < 4:
            found.append(f"architecture.text_length: got {self.text_length}, expected 4 or more.")
        if self.vocabulary < 514:
            found.append(f"architecture.vocabulary: got {self.vocabulary}, expected 514 or more.")
        for name, value in (
            ("vae_layers", self.vae_layers),
            ("latent_channels", self.latent_channels),
            ("unet_layers", self.unet_layers),
            ("text_layers", self.text_layers),
        ):
            if value < 1:
                found.append(f"architecture.{name}: got {value}, expected 1 or more.")
        if not 0 < self.beta_start < self.beta_end < 1:
            found.append(
                f"architecture.beta_start, beta_end: got {self.beta_start}, {self.beta_end}, expected rising numbers "
                "between 0 and 1."
            )
        return found

    @property
    def pixel_multiple(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.vae_channels) - 1)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The stage that trains the VAE; the sections train and optim are those of the stage after it."""

    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 16
    """Images per process and forward pass."""
    lr: float = 1e-3
    """Peak learning rate."""
    ema_decay: float | None = 0.99
    """Decay of the exponential moving average of the weights."""
    kl_weight: float = 1e-3
    """Weight of the latents' divergence from a standard normal, in nats a pixel value."""
    edge_weight: float = 1.0
    """Weight of the error of the differences between neighbouring pixels, for thin lines."""

    def problems(self) -> list[str]:
        found = [
            f"autoencoder.{name}: got {value}, expected {least} or more."
            for name, value, least in (
                ("steps", self.steps, 1),
                ("batch_size", self.batch_size, 1),
                ("kl_weight", self.kl_weight, 0),
                ("edge_weight", self.edge_weight, 0),
            )
            if value < least
        ]
        if self.lr <= 0:
            found.append(f"autoencoder.lr: got {self.lr}, expected a number above 0.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            found.append(f"autoencoder.ema_decay: got {self.ema_decay}, expected a number between 0 and 1, or none.")
        return found


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Train a latent diffusion model from scratch."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(NEW), kw_only=True)
    train: LoopConfig = field(default_factory=lambda: LoopConfig(text_encoder=True, ema_decay=0.999))
    cache: CacheConfig = field(default_factory=lambda: CacheConfig(text=False))
    stage: Literal["all", "tokenizer", "autoencoder", "denoiser"] = "all"
    """all runs the three in output.folder/tokenizer, output.folder/autoencoder and output.folder; each alone continues
    from the pipeline in model.source."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)

    def _contradictions(self) -> list[str]:
        found = super()._contradictions() + packed_full(self.model)
        if self.mask.kind != "none":
            found.append(f"mask.kind: got {self.mask.kind}, but pretraining takes whole images. Remove it.")
        is_new = self.model.source == NEW
        if is_new and self.stage in ("autoencoder", "denoiser"):
            found.append(
                f"model.source: got new with stage {self.stage}, expected the folder of the pipeline that the stage "
                "before it wrote."
            )
        if not is_new and self.stage in ("all", "tokenizer"):
            found.append(
                f"model.source: got {self.model.source} with stage {self.stage}, which makes a new model. Remove it, "
                "or name a later stage."
            )
        if not self.train.text_encoder:
            found.append(
                "train.text_encoder: got false, but a new text encoder knows nothing before it is trained. Remove it."
            )
        if is_new and self.data.bucket_step > 0 and self.data.bucket_step % self.architecture.pixel_multiple:
            found.append(
                f"data.bucket_step: got {self.data.bucket_step}, expected a multiple of "
                f"{self.architecture.pixel_multiple}, the pixels of a latent with this many levels in "
                "architecture.vae_channels."
            )
        return found


def autoencoder_stage(config: PretrainConfig) -> PretrainConfig:
    """Return the config of the run that trains the VAE of model.source.

    A config that is already one is returned unchanged.
    """
    options = config.autoencoder
    return replace(
        config,
        stage="autoencoder",
        train=replace(
            config.train,
            steps=options.steps,
            batch_size=options.batch_size,
            accumulation=1,
            ema_decay=options.ema_decay,
        ),
        optim=replace(config.optim, lr=options.lr, text_encoder_lr=None),
        cache=replace(config.cache, latents=False),
        validation=replace(config.validation, num_timesteps=1),
        preview=replace(config.preview, prompts=()),
    )
