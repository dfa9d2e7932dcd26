"""The options of every recipe as frozen dataclasses, and the rules between them; no torch here.

A section refuses what is wrong on its own in `problems()`; rules across sections are in `TrainConfig.__post_init__`,
which raises one `ValueError` that names every problem at once. `finetune.config.parse.command_line` turns YAML and
flags into these classes.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config.inpaint import InpaintConfig
from finetune.config.loss import LossConfig
from finetune.config.mask import MaskConfig
from finetune.config.optim import OptimConfig
from finetune.prompt_syntax import path_problems

SINGLE_FILE = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ModelConfig:
    """The model that is adapted."""

    source: str
    """Folder of a diffusers pipeline, a Hub id, or a single .safetensors file with all parts."""
    family: str | None = None
    """Architecture; none finds it in the checkpoint, and one that is not the checkpoint's is refused."""
    revision: str | None = None
    """Branch, tag or commit of the Hub id."""
    variant: str | None = None
    """Weight variant of the pipeline, e.g. fp16."""
    config: Path | None = None
    """For a single file: folder in diffusers layout of the same base model, whose configs, tokenizer and scheduler are
    used; it needs no weights."""
    vae: str | None = None
    """Another VAE: folder in diffusers layout (or of a pipeline with one), Hub id, or a single .safetensors file, which
    takes the config of the base model's VAE. Previews and full exports have it, too; a single file without a VAE needs
    one."""
    without: tuple[str, ...] = ()
    """Parts of the checkpoint to leave out for the memory they take, where the family can do without them, e.g.
    text_encoder_3; full exports lack them too."""

    quantization: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Keep the frozen linear layers of the denoiser's blocks in 8 bits (int8, arXiv 2208.07339; fp8 e4m3, arXiv
    2209.05433) or 4 (nf4, QLoRA, arXiv 2305.14314) while adapters or tokens train beside them."""
    double_quantization: bool = True
    """Keep the scales of nf4's blocks in 8 bits, too: 4.13 instead of 4.5 bits a weight."""
    offload: bool = False
    """Keep the frozen linear layers of the denoiser's blocks, quantised or not, in host memory. Each is on the device
    while it is multiplied with, in the forward and in the backward pass: slower, in the memory of one at a time."""

    def problems(self) -> list[str]:
        if not self.source:
            return ["model.source: got an empty text, expected a folder, a Hub id or a single file."]
        name = Path(self.source).name
        if self.source.lower().endswith(PICKLED):
            return [
                f"model.source: {name} is a pickle, which runs whatever code it holds when it is read; expected "
                f'safetensors. Where you trust it: save_file(torch.load("{name}", weights_only=True)["state_dict"], '
                '"model.safetensors"), with save_file from safetensors.torch, and give that file.'
            ]
        if self.source.lower().endswith(".gguf"):
            return [
                f"model.source: {name} is a GGUF file, whose weights are quantised for drawing alone. Give the "
                "original model in fp16, bf16 or fp32; --model.quantization nf4 holds it in 4 bits."
            ]
        if Path(self.source).is_file() and not self.source.endswith(SINGLE_FILE):
            return [
                f"model.source: {name} is a file of another kind, expected a folder in diffusers layout, a Hub id, or "
                f"a {SINGLE_FILE} file with all parts of a base model."
            ]
        if self.vae is not None and (not self.vae or self.vae.endswith(PICKLED)):
            return [
                f'model.vae: got "{self.vae}", expected a folder, a Hub id or a {SINGLE_FILE} file. A pickle runs '
                "whatever code it holds; where you trust it, save its weights as safetensors."
            ]
        is_file = self.source.endswith(SINGLE_FILE)
        found = [
            f"model.{key}: got {value} for the single file {name}, which has none. Remove it."
            for key, value in (("revision", self.revision), ("variant", self.variant))
            if is_file and value is not None
        ]
        if self.config is not None and not is_file:
            found.append(f"model.config: got {self.config}, but model.source is not a {SINGLE_FILE} file. Remove it.")
        if not self.double_quantization and self.quantization != "nf4":
            found.append(
                f"model.double_quantization: got false with model.quantization {self.quantization}; it is an option of "
                "nf4. Remove it."
            )
        return found


def packed_full(model: ModelConfig) -> list[str]:
    """Return the problems of quantised and offloaded weights in full training."""
    found = []
    if model.quantization != "none":
        found.append(
            f"model.quantization: got {model.quantization}, but quantised weights cannot be trained, and here all "
            "weights are. Remove it, or train adapters (recipes.lora)."
        )
    if model.offload:
        found.append(
            "model.offload: got true, but weights in host memory cannot be trained, and here all weights are. Remove "
            "it, or train adapters (recipes.lora)."
        )
    return found


@dataclass(frozen=True)
class DataConfig:
    """Images and captions."""

    folder: str
    """Prepared folder with metadata.jsonl, folder of images with .txt captions, or Hub dataset id."""
    image_column: str = "image"
    """Column of the images in a Hub dataset."""
    caption_column: str = "text"
    """Column of the captions in metadata.jsonl or a Hub dataset; the names of a column of class labels are captions
    too."""
    captions: Literal["listed", "folder", "none"] = "listed"
    """Where captions come from: listed with the images, the name of the image's folder (its class), or none, for a
    model without prompts."""
    caption_lines: Literal["alternatives", "joined", "first"] | None = None
    """What several lines of a caption file are: captions to draw from, one caption, or a caption and notes below it;
    none is alternatives, but refuses paragraphs and wrapped sentences."""
    folder_repeats: Literal["auto", "on", "off"] = "auto"
    """Repeat the images of a folder called 10_NAME ten times in a pass; auto decides by the names of all folders and
    refuses names that leave it open."""
    resolution: int = 512
    """Side of the square whose area every bucket stays within, in pixels."""
    bucket_step: int = 64
    """Bucket sides are multiples of this many pixels."""
    max_aspect: float = 2.0
    """Longest side over shortest side of the widest bucket; 1 puts everything into squares."""
    crop: Literal["center", "random"] = "center"
    """Where an image is cut to its bucket; random draws among num_crops fixed places, so they can be cached."""
    num_crops: int = 4
    """Places that crop=random draws from, per image."""
    flip: bool = False
    """Mirror half of the samples."""
    caption_dropout: float = 0.1
    """Share of samples trained on the empty prompt, which classifier-free guidance needs."""
    template: str = "{caption}"
    """Text around every caption, e.g. "{caption}, ink style"; {caption} is replaced by the caption, and may be absent
    where data.captions is none."""
    shuffle_tags: bool = False
    """Shuffle the comma-separated tags of a caption."""
    keep_tags: int = 0
    """The first tags that shuffling leaves in place."""
    num_shuffles: int = 4
    """Orders that shuffle_tags draws from, per caption; fixed, so they can be cached."""
    num_workers: int = 0
    """Processes that read images or cached latents ahead; 0 reads in the training process."""
    follow_links: bool = False
    """Read what links lead to outside the folder; else they are refused, since their captions end up in the export."""
    allow_change: bool = False
    """Resume although images or captions changed since the checkpoint was written."""

    def problems(self) -> list[str]:
        found = []
        if not self.folder:
            found.append("data.folder: got an empty text, expected a folder or a Hub dataset id.")
        if self.resolution < 8:
            found.append(f"data.resolution: got {self.resolution}, expected 8 or more pixels.")
        if self.bucket_step < 1 or self.resolution % self.bucket_step:
            found.append(
                f"data.bucket_step: got {self.bucket_step}, expected a divisor of resolution {self.resolution}."
            )
        if self.max_aspect < 1:
            found.append(f"data.max_aspect: got {self.max_aspect}, expected 1 or more.")
        if self.num_crops < 1:
            found.append(f"data.num_crops: got {self.num_crops}, expected 1 or more.")
        if not 0 <= self.caption_dropout <= 1:
            found.append(f"data.caption_dropout: got {self.caption_dropout}, expected a share from 0 to 1.")
        if self.caption_lines is not None and self.captions != "listed":
            found.append(
                f"data.caption_lines: got {self.caption_lines}, but data.captions {self.captions} reads no caption "
                "files. Remove one of the two."
            )
        if "{caption}" not in self.template and self.captions != "none":
            found.append(f'data.template: got "{self.template}", expected a text that contains {{caption}}.')
        if self.keep_tags < 0 or (self.keep_tags and not self.shuffle_tags):
            found.append(f"data.keep_tags: got {self.keep_tags}; it only acts with data.shuffle_tags true.")
        if self.num_shuffles < 1:
            found.append(f"data.num_shuffles: got {self.num_shuffles}, expected 1 or more.")
        if self.num_workers < 0:
            found.append(f"data.num_workers: got {self.num_workers}, expected 0 or more.")
        return found


@dataclass(frozen=True)
class CacheConfig:
    """Images and captions encoded once and kept on disk."""

    latents: bool = True
    """Keep the VAE's latents; off encodes every image again at every step."""
    text: bool = True
    """Keep the text encoder's embeddings; cannot be on while the text encoder is trained, does nothing while tokens
    are."""
    folder: Path | None = None
    """Folder of the caches; none means ~/.cache/sd-finetune (or $XDG_CACHE_HOME). Runs can share it."""
    shard_size: int = 256
    """Entries per file."""

    def problems(self) -> list[str]:
        return [] if self.shard_size > 0 else [f"cache.shard_size: got {self.shard_size}, expected 1 or more."]


@dataclass(frozen=True)
class LoopConfig:
    """The training loop."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 1
    """Images per process and forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step; one step sees batch_size x accumulation x processes images."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time for less memory."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradients, which are scaled down to it; 0 turns this off."""
    text_encoder: bool = False
    """Train the text encoder too."""
    text_encoder_steps: int | None = None
    """Steps after which a trained text encoder stays as it is; none trains it to the end."""
    ema_decay: float | None = None
    """Decay of the exponential moving average of the weights, which is then what is validated and exported."""
    ema_device: Literal["same", "cpu"] = "same"
    """Where the average is kept: beside the weights, or in host memory, followed while the next step is computed."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    timeout_seconds: int = 600
    """Seconds after which a process of the job that does not answer, or an exchange in a step that does not end, ends
    the run; a process that works alone, as in an export, may take longer."""

    def problems(self) -> list[str]:
        found = [
            f"train.{name}: got {value}, expected 1 or more."
            for name, value in (
                ("steps", self.steps),
                ("batch_size", self.batch_size),
                ("accumulation", self.accumulation),
                ("log_every", self.log_every),
                ("timeout_seconds", self.timeout_seconds),
            )
            if value < 1
        ]
        if self.text_encoder_steps is not None and self.text_encoder_steps < 1:
            found.append(
                f"train.text_encoder_steps: got {self.text_encoder_steps}, expected 1 or more; train.text_encoder "
                "false never trains it."
            )
        if self.max_grad_norm < 0:
            found.append(f"train.max_grad_norm: got {self.max_grad_norm}, expected 0 or more.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            found.append(f"train.ema_decay: got {self.ema_decay}, expected a number between 0 and 1, or none.")
        if self.ema_device != "same" and self.ema_decay is None:
            found.append(f"train.ema_device: got {self.ema_device}, but train.ema_decay is none. Remove it.")
        return found


@dataclass(frozen=True)
class ValidationConfig:
    """Loss on images that are never trained on, at fixed noise and fixed timesteps."""

    fraction: float = 0.0
    """Share of the images held out, where the manifest itself names no validation split."""
    every: int = 100
    """Steps between two validations; also at the start and the end. 0 turns validation off."""
    num_timesteps: int = 4
    """Timesteps each held-out image is scored at, evenly spread."""

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.fraction < 1:
            found.append(f"validation.fraction: got {self.fraction}, expected a share from 0 to below 1.")
        if self.every < 0:
            found.append(f"validation.every: got {self.every}, expected 0 or more.")
        if self.num_timesteps < 1:
            found.append(f"validation.num_timesteps: got {self.num_timesteps}, expected 1 or more.")
        return found


@dataclass(frozen=True)
class PreviewConfig:
    """Images made while training from fixed prompts and seeds, beside those of the base model."""

    prompts: tuple[str, ...] = ()
    """Prompts; none turns previews off."""
    negative_prompt: str = ""
    """Negative prompt of all previews."""
    num_seeds: int = 1
    """Images per prompt, with the seeds 0, 1, ..."""
    every: int = 500
    """Steps between two previews; also at the start and the end."""
    num_inference_steps: int = 30
    """Denoising steps."""
    guidance_scale: float | None = None
    """Guidance, classifier-free or distilled; none takes the usual value of the architecture."""
    size: int | None = None
    """Side of the square images in pixels; none takes data.resolution."""

    def problems(self) -> list[str]:
        return [
            f"preview.{name}: got {value}, expected 1 or more."
            for name, value in (
                ("num_seeds", self.num_seeds),
                ("every", self.every),
                ("num_inference_steps", self.num_inference_steps),
                ("size", 1 if self.size is None else self.size),
            )
            if value < 1
        ]


@dataclass(frozen=True)
class CheckpointConfig:
    """Saved states that a stopped run continues from."""

    every: int = 250
    """Steps between two checkpoints; one is always written at the end and when the run is stopped."""
    keep: int = 2
    """Newest checkpoints that stay on disk."""

    def problems(self) -> list[str]:
        return [
            f"checkpoint.{name}: got {value}, expected 1 or more."
            for name, value in (("every", self.every), ("keep", self.keep))
            if value < 1
        ]


@dataclass(frozen=True)
class TrackingConfig:
    """Dashboards beside OUT/metrics.jsonl and OUT/report.html, which are always written."""

    names: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ("wandb",)
    """Trackers; write names with nothing behind it for none."""
    project: str | None = None
    """Project of the run; none takes sd-finetune, in W&B the variable WANDB_PROJECT first."""
    run_name: str | None = None
    """Name of the run; none takes the output folder's name, in W&B the variable WANDB_NAME first."""
    tags: tuple[str, ...] = ()
    """Labels of the run; where none are given, W&B takes those of the variable WANDB_TAGS."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """W&B mode; auto is online when you are logged in, else offline."""

    def problems(self) -> list[str]:
        doubled = {name for name in self.names if self.names.count(name) > 1}
        return [f"tracking.names: got {name} twice." for name in sorted(doubled)]


@dataclass(frozen=True)
class OutputConfig:
    """Where the run writes."""

    folder: Path
    """The run's folder; the same command again resumes what it finds there."""
    name: str | None = None
    """File name of the exported model, without ending; none takes the folder's name."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of the exported weights."""

    def problems(self) -> list[str]:
        if not re.fullmatch(r"[\w. -]+", self.export_name):
            given = "output.folder" if self.name is None else "output.name"
            return [
                f'{given}: the exported model would be called "{self.export_name}", expected letters, digits, spaces '
                "and . _ - alone. Set --output.name."
            ]
        if self.export_name == "pytorch_lora_weights":
            return ["output.name: pytorch_lora_weights is the name of the file in diffusers' layout; choose another."]
        return []

    @property
    def export_name(self) -> str:
        return self.folder.resolve().name if self.name is None else self.name


@dataclass(frozen=True)
class TrainConfig:
    """What every recipe needs; a recipe adds the section of its method."""

    model: ModelConfig
    data: DataConfig
    output: OutputConfig
    train: LoopConfig = field(default_factory=LoopConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    inpaint: InpaintConfig = field(default_factory=InpaintConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Noise, timesteps, order, crops and captions are functions of this number and the position in the sample
    stream."""
    resume: str = "auto"
    """auto continues the newest complete checkpoint in the output folder, never insists on a new run, a path continues
    that checkpoint."""

    def __post_init__(self) -> None:
        sections: list[Any] = [value for value in vars(self).values() if is_dataclass(value)]
        found = [problem for section in sections for problem in section.problems()]
        found += self._contradictions() + not_finite(self) + secrets_in(self)
        found += [problem for option, texts in prompts_of(self).items() for problem in path_problems(option, texts)]
        if found:
            raise ValueError("\n".join(found))

    def _contradictions(self) -> list[str]:
        found = []
        if self.train.text_encoder and self.cache.text:
            found.append(
                "cache.text: got true with train.text_encoder true; a trained text encoder changes its embeddings at "
                "every step. Add --cache.text false."
            )
        if self.optim.text_encoder_lr is not None and not self.train.text_encoder:
            found.append(
                "optim.text_encoder_lr: given, but train.text_encoder is false. Remove it or train the encoder."
            )
        if self.train.text_encoder_steps is not None and not self.train.text_encoder:
            found.append(
                "train.text_encoder_steps: given, but train.text_encoder is false. Remove it or train the encoder."
            )
        if 0 < self.train.steps <= self.optim.warmup_steps:
            found.append(
                f"optim.warmup_steps: got {self.optim.warmup_steps}, expected fewer than train.steps "
                f"{self.train.steps}. Use --optim.warmup_steps {self.train.steps // 20}, or more steps."
            )
        if self.optim.in_backward and self.train.accumulation > 1:
            found.append(
                f"train.accumulation: got {self.train.accumulation} with optim.in_backward, which keeps no gradient "
                "to add to. Use 1, with a larger train.batch_size where it fits."
            )
        if self.optim.in_backward and self.train.max_grad_norm > 0:
            found.append(
                f"train.max_grad_norm: got {self.train.max_grad_norm} with optim.in_backward, which updates weights "
                "before the norm of all gradients is known. Add --train.max_grad_norm 0."
            )
        if self.optim.in_backward and self.train.text_encoder_steps is not None:
            found.append(
                "train.text_encoder_steps: given with optim.in_backward, which updates weights before a gradient can "
                "be taken away. Remove one of the two."
            )
        if not 0 <= self.seed < 2**63:
            found.append(f"seed: got {self.seed}, expected 0 to 2^63 - 1.")
        if self.optim.facts.finds_lr and self.optim.text_encoder_lr not in (None, self.optim.lr):
            found.append(f"optim.text_encoder_lr: given with {self.optim.name}, which knows one rate only. Remove it.")
        if self.optim.facts.finds_lr and self.optim.lr < 0.1:
            found.append(f"optim.lr: got {self.optim.lr} with {self.optim.name}, which finds the rate itself; use 1.0.")
        return found


SECRET_PATTERN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|(?<!/)\b[0-9a-f]{40}\b|(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}|wandb_v\d_[A-Za-z0-9_]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"  # GitHub, GitLab
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|AIza[A-Za-z0-9_-]{30,}|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # AWS, Google, Slack
    r"|r8_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"  # Replicate, keys
    r"|\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@"  # user:password@ in a URL
)
"""Forty hex digits are a W&B key, but behind a slash the commit in a Hub cache path such as .../snapshots/451f..."""
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY", "TRACKIO_TOKEN")
SECRET_VARIABLES += ("GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")


def options(section: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option with its dotted name."""
    for item in fields(section):
        value, key = getattr(section, item.name), f"{name}{item.name}"
        if is_dataclass(value):
            yield from options(value, f"{key}.")
        else:
            yield key, value


def not_finite(config: Any) -> list[str]:
    """Name every number that is nan or infinite. Comparisons alone let nan pass."""
    numbers = [(key, value) for key, value in options(config) if isinstance(value, float)]
    return [f"{key}: got {value}, expected a finite number." for key, value in numbers if not math.isfinite(value)]


def prompts_of(config: Any) -> dict[str, list[str]]:
    """Return the texts of options that contain prompts or a caption template."""
    found: dict[str, list[str]] = {}
    for key, value in options(config):
        if key.rpartition(".")[2] in ("prompt", "prompts", "negative_prompt", "template"):
            found[key] = [str(part) for part in (value if isinstance(value, tuple) else (value,)) if part]
    return found


def secrets_in(config: Any) -> list[str]:
    """Name every option whose value contains an access token.

    Such a value would be written to config.yaml and dashboards.
    """
    known = [os.environ[variable] for variable in SECRET_VARIABLES if len(os.environ.get(variable, "")) >= 8]
    found = []
    for key, value in options(config):
        texts = [str(part) for part in (value if isinstance(value, tuple) else (value,))]
        looks_secret = key != "model.revision" and any(SECRET_PATTERN.search(text) for text in texts)
        if looks_secret or any(secret in text for secret in known for text in texts):
            found.append(
                f"{key}: holds an access token or password, which would be written to files. Remove it; use "
                "`hf auth login`, `wandb login` or an environment variable."
            )
    return found
