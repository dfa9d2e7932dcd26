"""Options of `finetune evaluate`, and of scoring in training; torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.checks import problems, refuse
from finetune.config.facts import (
    ActsWith,
    Bound,
    Count,
    CountOrZero,
    Mark,
    NotNegative,
    OneOf,
    Resume,
    Share,
    ShareBelowOne,
    at_least,
    not_empty,
)
from finetune.config.folders import TrainingFolder
from finetune.config.sections import CaptionLines, ModelConfig

EMBEDDED = "embedded"
MOST_IMAGES = 256
"""Training images that drawings are compared with."""
Goal = Literal["style", "subject", "full"]
LIKENESS: dict[str, str] = {"style": "style", "subject": "subject", "full": "style"}
"""The score that each goal wants most of."""
STRENGTHS = Bound(lambda value: all(0 < each <= 4 for each in value), "numbers above 0, at most 4")


@dataclass(frozen=True)
class ScoredDataConfig:
    """The images that were trained on."""

    folder: Annotated[str | None, not_empty("a folder or a Hub dataset id"), OneOf("folders"), Mark.READ] = None
    """Prepared folder, folder of images with captions, or Hub dataset id, as in training."""
    folders: tuple[TrainingFolder, ...] = ()
    """Several folders, as in training; class images among them are not compared with."""
    image_column: str = "image"
    """Column of the images in a Hub dataset."""
    caption_column: str = "text"
    """Column of the captions in metadata.jsonl or a Hub dataset."""
    captions: Literal["listed", "folder", "none"] = "listed"
    """Where captions come from, as in training."""
    caption_lines: Annotated[CaptionLines | None, ActsWith("captions", "listed")] = None
    """What several lines of a caption file are, as in training."""
    keep_rating: Annotated[bool, ActsWith("captions", "listed")] = False
    """Whether the rating of a gallery is a tag, as in training."""
    folder_repeats: Literal["auto", "on", "off"] = "auto"
    """What a folder called 10_NAME is, as in training."""
    follow_links: bool = False
    """Whether links out of the folder are read, as in training."""
    trigger: Annotated[str | None, Mark.PROMPT] = None
    """Words in place of [trigger] and [name], or before captions, as in training."""
    expand_syntax: bool = False
    """Whether {a|b} and (word:1.2) in captions are read, as in training."""
    template: Annotated[str, Mark.PROMPT] = "{caption}"
    """Text around every caption in training, e.g. "{caption}, ink style"; what it adds is the trigger."""
    validation_fraction: ShareBelowOne = 0.0
    """Share of the images held out in training, where the dataset itself names no validation split."""
    max_images: Annotated[int, at_least(4, "images")] = MOST_IMAGES
    """Most training images to compare with; of more, this many are chosen by their content."""

    def problems(self) -> Iterator[str]:
        if "{caption}" not in self.template:
            yield f'data.template: got "{self.template}", expected a text that contains {{caption}}.'
        for number, each in enumerate(self.folders):
            yield from problems(each, f"data.folders[{number}]")


@dataclass(frozen=True)
class GridConfig:
    """Prompts and seeds that every checkpoint is drawn with."""

    prompts: Annotated[tuple[str, ...], Mark.PROMPT] = ()
    """Your own prompts, as you would write them for this model, trigger included."""
    num_prompts: Annotated[int, at_least(2, "prompts")] = 4
    """Prompts of each other kind: captions of held-out images, contents that are not in the training set, and neutral
    ones."""
    num_seeds: Annotated[int, at_least(2, "seeds")] = 4
    """Images per prompt, with the seeds 0, 1, ..."""
    contents: Annotated[tuple[str, ...], Mark.PROMPT] = ()
    """Things that the base model draws well, e.g. "red apple"; none takes a list of everyday things."""
    subject: Annotated[str | None, Mark.PROMPT] = None
    """The subject's prompt, e.g. "a photo of sks dog", which is drawn in places that are not in the training set."""


@dataclass(frozen=True)
class DrawConfig:
    """How images are drawn."""

    size: Annotated[int | None, at_least(8, "pixels")] = None
    """Side of the square images in pixels; none takes the usual one of the model."""
    num_inference_steps: Count = 30
    """Denoising steps."""
    guidance_scale: float | None = None
    """Guidance, classifier-free or distilled; none takes the usual value of the architecture."""
    negative_prompt: Annotated[str, Mark.PROMPT] = ""
    """Negative prompt of all images."""
    strength: NotNegative = 1.0
    """Strength of the scored adapters."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes the first CUDA device, if there is one."""


@dataclass(frozen=True)
class FeaturesConfig:
    """The features that images are compared by."""

    style: str = EMBEDDED
    """embedded needs no weights but the base model's; else a transformers vision model, folder or Hub id."""
    content: str = EMBEDDED
    """As style, for subjects, drift, diversity and leaks, e.g. facebook/dinov2-base."""
    adherence: str = EMBEDDED
    """embedded compares losses of the base model under the prompts; else a CLIP or SigLIP model, or a vision-language
    model that is asked if the image shows the prompt (VQAScore), folder or Hub id."""


@dataclass(frozen=True)
class LimitsConfig:
    """Bounds of the qualities of a checkpoint beside its likeness. With others a finished run is exported again."""

    adherence: Annotated[Share, Resume.EXPORTED] = 0.15
    """Most that adherence may be below the base model's."""
    drift: Annotated[Share, Resume.EXPORTED] = 1.0
    """Most drift on neutral prompts, where there is a trigger; 1 is the distance of unrelated images. Set 0.6 to leave
    out checkpoints that change prompts without the trigger much."""
    leak: Annotated[Share, Resume.EXPORTED] = 0.15
    """Most that content leak may be above the base model's."""
    memorisation: Annotated[Share, Resume.EXPORTED] = 0.15
    """Most that the rate of near duplicates may be above the rate of false alarms."""


@dataclass(frozen=True)
class ScoringConfig:
    """Checkpoints scored in training. They are drawn as previews are, and the best is exported."""

    every: CountOrZero = 0
    """Steps between two scored checkpoints; also at the end. 0 scores none."""
    goal: Annotated[Goal, Resume.EXPORTED] = "style"
    """What the model is trained for; it decides which likeness chooses the checkpoint."""
    export: Annotated[str, Resume.EXPORTED] = "best"
    """What is exported: best, last, or the step of a scored checkpoint. The same command with another value exports a
    finished run again, without training."""
    patience: CountOrZero = 0
    """Training ends once this many later checkpoints show no improvement; 0 never ends it early."""
    max_share: Share = 0.25
    """Most of the run's time that scoring may take. Beyond it strengths are dropped first, then seeds, then prompts
    (never under 4 x 4), then fewer checkpoints are scored."""
    num_inference_steps: Count = 15
    """Denoising steps of scored images; half of what previews have does, since all steps are compared alike."""
    strengths: Annotated[tuple[float, ...], STRENGTHS] = (0.25, 0.5, 0.75, 1.0, 1.2, 1.4)
    """Strengths that the best checkpoint's adapters are scored at in the end; none scores no other."""
    grid: GridConfig = field(default_factory=GridConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def problems(self) -> Iterator[str]:
        if self.export not in ("best", "last") and not self.export.isdigit():
            yield f"evaluate.export: got {self.export}, expected best, last, or the step of a scored checkpoint."
        if self.every == 0:
            if self.patience:
                yield (
                    f"evaluate.patience: got {self.patience}, but evaluate.every is 0, so nothing is scored. Set "
                    "--evaluate.every, or remove it."
                )
            if self.export.isdigit():
                yield (
                    f"evaluate.export: got {self.export}, but evaluate.every is 0, so nothing is scored. Set "
                    "--evaluate.every, or remove it."
                )
        if self.grid.prompts:
            yield "evaluate.grid.prompts: given, but a run is scored with preview.prompts. Name them there."


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of `finetune evaluate`."""

    model: ModelConfig
    data: ScoredDataConfig
    output: Path
    """Folder of scores and images; the same command again resumes."""
    targets: tuple[str, ...] = ()
    """What is scored: run folders, adapter files, or pipeline folders. They are named before the options."""
    goal: Goal = "style"
    """What the model was trained for; it decides which likeness chooses the checkpoint."""
    grid: GridConfig = field(default_factory=GridConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        refuse(self, (targets_given, subject_named))


def targets_given(targets: tuple[str, ...]) -> Iterator[str]:
    """Refuse a command that scores nothing."""
    if not targets:
        yield (
            "targets: missing, expected what to score. Use: finetune evaluate RUN_FOLDER|FILE|PIPELINE --model.source "
            "BASE --data.folder PREPARED --output FOLDER"
        )
    for target in targets:
        if not Path(target).exists():
            yield f"targets: no file or folder {target}. Expected a run folder, a LoRA file, or a pipeline folder."


def subject_named(goal: Goal, grid: GridConfig) -> Iterator[str]:
    """Refuse the goal of a subject without its prompt."""
    if goal == "subject" and not grid.subject:
        yield (
            "grid.subject: missing with goal subject, expected the subject's prompt. Use: --grid.subject \"a photo of "
            'sks dog".'
        )
