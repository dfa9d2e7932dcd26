"""Options of every recipe, and the rules between their sections; torch-free. A section refuses what is wrong on its own
in `problems()`; rules across sections are in `TrainConfig.rules`. All problems are raised in one `ValueError`.
`finetune.config.parse.command_line` turns YAML and flags into these classes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from finetune.config.checks import Rules, refuse
from finetune.config.evaluate import ScoringConfig
from finetune.config.facts import Resume, Seed
from finetune.config.inpaint import InpaintConfig
from finetune.config.loss import LossConfig
from finetune.config.mask import MaskConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import CheckpointConfig, OutputConfig, PreviewConfig, ValidationConfig
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig
from finetune.config.tracking import TrackingConfig


def all_weights(model: ModelConfig) -> Iterator[str]:
    """Refuse quantised and offloaded weights in full training."""
    if model.quantization != "none":
        yield (
            f"model.quantization: got {model.quantization}, but quantised weights cannot be trained, and here all "
            "weights are. Remove it, or train adapters (recipes.lora)."
        )
    if model.offload:
        yield (
            "model.offload: got true, but weights in host memory cannot be trained, and here all weights are. Remove "
            "it, or train adapters (recipes.lora)."
        )


def trained_text_encoder(train: LoopConfig, cache: CacheConfig, optim: OptimConfig) -> Iterator[str]:
    """Refuse contradictory options of the text encoder and its cache."""
    if train.text_encoder and cache.text:
        yield (
            "cache.text: got true with train.text_encoder true; a trained text encoder changes its embeddings at "
            "every step. Add --cache.text false."
        )
    rates = {"optim.text_encoder_lr": optim.text_encoder_lr, "train.text_encoder_steps": train.text_encoder_steps}
    for key, value in rates.items():
        if value is not None and not train.text_encoder:
            yield f"{key}: given, but train.text_encoder is false. Remove it or train the encoder."


def averaged_weights(train: LoopConfig) -> Iterator[str]:
    """Refuse a place for an average that is not kept."""
    if train.ema_device != "same" and train.ema_decay is None:
        yield f"train.ema_device: got {train.ema_device}, but train.ema_decay is none. Remove it."


def compiled_layers(train: LoopConfig, model: ModelConfig) -> Iterator[str]:
    """Refuse compiled steps of layers that are fetched one at a time."""
    if train.compile != "none" and model.offload:
        yield (
            f"train.compile: got {train.compile} with model.offload, whose layers are fetched while a step runs. Use "
            "none, or keep the layers on the device."
        )


def masks_of_folders(data: DataConfig, mask: MaskConfig) -> Iterator[str]:
    """Refuse unused masks of folders, and one place for all masks."""
    if data.folders and mask.folder is not None:
        yield f"mask.folder: got {mask.folder} with data.folders. Give each folder its mask_folder."
    for each in data.folders:
        if each.mask_folder is not None and mask.kind != "file":
            yield (
                f"data.folders: {each.folder}: got mask_folder {each.mask_folder} with mask.kind {mask.kind}. Set "
                "mask.kind file, or remove it."
            )
        if not each.mask and mask.kind == "none":
            yield f"data.folders: {each.folder}: got mask false with mask.kind none, which uses no masks. Remove it."


def length(train: LoopConfig, optim: OptimConfig, evaluate: ScoringConfig) -> Iterator[str]:
    """Refuse what does not fit the steps. Epochs wait for the dataset."""
    if train.epochs is None:
        yield from unfit_for_steps(train, optim, evaluate)


def unfit_for_steps(train: LoopConfig, optim: OptimConfig, evaluate: ScoringConfig) -> Iterator[str]:
    """Yield what does not fit train.steps."""
    yield from warmup(train, optim)
    yield from exported_step(train, evaluate)


def warmup(train: LoopConfig, optim: OptimConfig) -> Iterator[str]:
    """Refuse a warm-up that is longer than the run."""
    if 0 < train.steps <= optim.warmup_steps:
        yield (
            f"optim.warmup_steps: got {optim.warmup_steps}, expected fewer than train.steps {train.steps}. Use "
            f"--optim.warmup_steps {train.steps // 20}, or more steps."
        )


def updates_in_backward(train: LoopConfig, optim: OptimConfig) -> Iterator[str]:
    """Refuse options that need all gradients at once."""
    if not optim.in_backward:
        return
    if train.accumulation > 1:
        yield (
            f"train.accumulation: got {train.accumulation} with optim.in_backward, which keeps no gradient to add to. "
            "Use 1, with a larger train.batch_size where it fits."
        )
    if train.max_grad_norm > 0:
        yield (
            f"train.max_grad_norm: got {train.max_grad_norm} with optim.in_backward, which updates weights before the "
            "norm of all gradients is known. Add --train.max_grad_norm 0."
        )
    if train.text_encoder_steps is not None:
        yield (
            "train.text_encoder_steps: given with optim.in_backward, which updates weights before a gradient can be "
            "taken away. Remove one of the two."
        )


def rates_that_are_found(optim: OptimConfig) -> Iterator[str]:
    """Refuse rates that an optimizer finds itself."""
    if optim.facts.finds_lr and optim.text_encoder_lr not in (None, optim.lr):
        yield f"optim.text_encoder_lr: given with {optim.name}, which knows one rate only. Remove it."
    if optim.facts.finds_lr and optim.lr < 0.1:
        yield f"optim.lr: got {optim.lr} with {optim.name}, which finds the rate itself; use 1.0."


def exported_step(train: LoopConfig, evaluate: ScoringConfig) -> Iterator[str]:
    """Refuse to export a step that is not scored."""
    if evaluate.every and evaluate.export.isdigit():
        step = int(evaluate.export)
        if not 0 < step <= train.steps or (step % evaluate.every and step != train.steps):
            yield (
                f"evaluate.export: got {step}, expected best, last, or a scored step: a multiple of evaluate.every "
                f"{evaluate.every} up to train.steps {train.steps}."
            )


@dataclass(frozen=True)
class TrainConfig:
    """Options of every recipe; a recipe adds its method's section."""

    model: ModelConfig
    data: DataConfig
    output: Annotated[OutputConfig, Resume.FREE]
    train: LoopConfig = field(default_factory=LoopConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    inpaint: InpaintConfig = field(default_factory=InpaintConfig)
    cache: Annotated[CacheConfig, Resume.FREE] = field(default_factory=CacheConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    preview: Annotated[PreviewConfig, Resume.FREE] = field(default_factory=PreviewConfig)
    evaluate: Annotated[ScoringConfig, Resume.FREE] = field(default_factory=ScoringConfig)
    checkpoint: Annotated[CheckpointConfig, Resume.FREE] = field(default_factory=CheckpointConfig)
    tracking: Annotated[TrackingConfig, Resume.FREE] = field(default_factory=TrackingConfig)
    seed: Seed = 0
    """Noise, timesteps, order, crops and captions are functions of this number and the position in the sample stream.
    """
    resume: Annotated[str, Resume.FREE] = "auto"
    """auto continues the newest complete checkpoint in the output folder, never insists on a new run, a path continues
    that checkpoint."""

    rules: ClassVar[Rules] = (
        *(trained_text_encoder, averaged_weights, length, updates_in_backward, rates_that_are_found),
        *(compiled_layers, masks_of_folders),
    )

    def __post_init__(self) -> None:
        refuse(self, self.rules)
