"""Options of DreamBooth: the subject's images and its class; torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from finetune.config.facts import Count, Mark, NotNegative, Resume, Seed, Share, above_zero
from finetune.config.lora import LoRAConfig
from finetune.config.mask import MaskConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import CheckpointConfig, OutputConfig
from finetune.config.recipes import (
    AdaptConfig,
    adapters,
    files_of_adapters,
    no_prior,
    no_small_files,
    no_whole_model,
)
from finetune.config.sections import DataConfig, ModelConfig
from finetune.config.train import TrainConfig, all_weights

Method = Literal["lora", "full"]


@dataclass(frozen=True)
class DreamBoothDataConfig(DataConfig):
    """Images of the subject; captions are read where instance.captions is true."""

    caption_dropout: Share = 0.0
    """Share of samples trained on the empty prompt; more than 0 writes the subject into the empty prompt too."""


@dataclass(frozen=True)
class InstanceConfig:
    """The subject's name."""

    prompt: Annotated[str | None, Mark.PROMPT] = None
    """Prompt of every image in data.folder, e.g. "a photo of sks dog": a rare word, then the class. `finetune doctor
    tokens` proposes words."""
    captions: bool = False
    """Use the images' own captions instead."""

    def problems(self) -> Iterator[str]:
        if self.captions and self.prompt is not None:
            yield (
                f'instance.prompt: got "{self.prompt}" with instance.captions true, where images keep their own '
                "captions. Remove one of the two."
            )
        if not self.captions and not (self.prompt or "").strip():
            yield (
                'instance.prompt: missing, expected the prompt of every image, such as "a photo of sks dog". Add it, '
                "or --instance.captions true where the images have captions."
            )


@dataclass(frozen=True)
class PriorConfig:
    """Preservation of the subject's class (arXiv 2208.12242, section 3.3)."""

    kind: Literal["pictures", "prediction", "none"] = "pictures"
    """pictures trains on class images that the base model drew; prediction preserves the base model's predictions for
    prior.prompt on the subject's noisy images; none preserves nothing."""
    prompt: Annotated[str | None, Mark.PROMPT] = None
    """The class without the subject's word, e.g. "a photo of a dog"."""
    weight: Annotated[float, above_zero("prior.kind none turns it off")] = 1.0
    """Factor on the loss of the class: lambda of equation 2."""
    num_pictures: Count = 200
    """Class images to make; unused where prior.folder has them."""
    folder: Annotated[str | None, Mark.READ] = None
    """Your own class images, in any form that data.folder accepts; none draws them."""
    captions: bool = False
    """Use the captions of the images in prior.folder instead of prior.prompt."""
    num_inference_steps: Count = 50
    """Denoising steps of a class image."""
    guidance_scale: NotNegative | None = None
    """Guidance of class images; none takes the usual value of the architecture."""
    batch_size: Count = 4
    """Class images that one process draws at a time."""
    seed: Seed = 0
    """Seed of the class images."""

    def problems(self) -> Iterator[str]:
        if self.kind == "none" and self.prompt is not None:
            yield (
                f'prior.prompt: got "{self.prompt}" with prior.kind none, which keeps nothing of the class. Remove it, '
                "or choose pictures or prediction."
            )
        if self.captions and self.prompt is not None:
            yield (
                f'prior.prompt: got "{self.prompt}" with prior.captions true, where class images keep their own '
                "captions. Remove one of the two."
            )
        if self.kind != "none" and not (self.prompt or "").strip() and not self.captions:
            yield (
                f'prior.prompt: missing, expected the class for prior.kind {self.kind}, such as "a photo of a dog". '
                "Add it, --prior.captions true where the images in prior.folder have captions, or --prior.kind none."
            )
        if self.folder is not None and self.kind != "pictures":
            yield (
                f"prior.folder: got {self.folder} with prior.kind {self.kind}, which reads no class images. Remove "
                "it, or choose pictures."
            )


def options_of_method(
    method: Method,
    optim: OptimConfig,
    model: ModelConfig,
    mask: MaskConfig,
    lora: LoRAConfig,
    prior: PriorConfig,
    output: OutputConfig,
    checkpoint: CheckpointConfig,
) -> Iterator[str]:
    """Refuse what adapters or full training contradict."""
    if method == "full":
        yield from all_weights(model)
        yield from no_prior(mask)
        yield from no_small_files(checkpoint)
        if lora != LoRAConfig():
            yield "lora: given with method full, which has no adapters. Remove the section or the method."
        return
    yield from adapters(optim, model, mask, lora)
    yield from no_whole_model(output)
    yield from files_of_adapters(checkpoint, lora)
    if prior.kind == "prediction" and lora.init in ("pissa", "olora"):
        yield (
            f"prior.kind: got prediction with lora.init {lora.init}, which moves a part of the weights into "
            "the adapters: without them the weights are not the base model's. Use prior.kind pictures."
        )


def captions_of_subject(data: DataConfig, instance: InstanceConfig) -> Iterator[str]:
    """Refuse options of captions that the subject's prompt replaces."""
    if data.template != "{caption}":
        yield (
            f'data.template: got "{data.template}", but the prompts of subject and class are written out. Put '
            "its words into instance.prompt."
        )
    if not instance.captions and data.captions != "listed":
        yield (
            f"data.captions: got {data.captions}, but every image gets instance.prompt. Remove it, or add "
            "--instance.captions true."
        )
    if instance.captions and data.captions == "none":
        yield "instance.captions: got true with data.captions none, which reads none. Remove one of the two."


def folders_of_subject(data: DataConfig, instance: InstanceConfig, prior: PriorConfig) -> Iterator[str]:
    """Refuse captions that prompts replace, and unused class images."""
    of_class = [each for each in data.folders if each.is_regularisation]
    if prior.captions and prior.folder is None and not of_class:
        yield (
            "prior.captions: got true without prior.folder, whose captions it reads. Add --prior.folder, or folders "
            "with is_regularisation in data.folders."
        )
    if of_class and (prior.kind != "pictures" or prior.folder is not None):
        what = f"prior.kind {prior.kind}" if prior.folder is None else f"prior.folder {prior.folder}"
        yield (
            f"data.folders: {of_class[0].folder}: got is_regularisation true with {what}, expected class images in one "
            "place. Remove one of the two."
        )
    for each in data.folders:
        replacing = prior.prompt if each.is_regularisation else instance.prompt
        if (each.edits_captions or each.captions is not None) and replacing is not None:
            yield (
                f'data.folders: {each.folder}: got captions of its own, but all its images get "{replacing}". Remove '
                "one of the two."
            )
    if data.trigger is not None and instance.prompt is not None:
        yield f'data.trigger: got "{data.trigger}", but every image gets instance.prompt. Put its words there.'


def word_of_subject(instance: InstanceConfig, prior: PriorConfig) -> Iterator[str]:
    """Refuse one name for both subject and class."""
    subject, of_class = (set(words(text or "")) for text in (instance.prompt, prior.prompt))
    if subject and subject <= of_class:
        yield (
            f'instance.prompt: got "{instance.prompt}", expected a word for the subject that prior.prompt '
            f'"{prior.prompt}" does not have: with one name for both, the class is taught and kept at a '
            "time. `finetune doctor tokens` proposes words."
        )


@dataclass(frozen=True)
class DreamBoothTrainConfig(AdaptConfig):
    """Teach a model a subject from a few images (DreamBooth, arXiv 2208.12242)."""

    data: DreamBoothDataConfig
    method: Annotated[Method, Resume.FIXED] = "lora"
    """What is tuned: low-rank adapters, or all weights."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    instance: InstanceConfig = field(default_factory=InstanceConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    rules = (*TrainConfig.rules, options_of_method, captions_of_subject, folders_of_subject, word_of_subject)


def words(text: str) -> list[str]:
    """Return a prompt's words in lower case without surrounding punctuation."""
    stripped = (word.strip(".,;:!?\"'()[]") for word in text.lower().split())
    return [word for word in stripped if word]
