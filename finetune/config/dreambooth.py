"""The options of DreamBooth: the subject's images and what is preserved of its class; no torch here."""

from dataclasses import dataclass, field
from typing import Literal

from finetune.config.lora import LoRAConfig
from finetune.config.recipes import AdaptConfig, adapter_contradictions, full_contradictions
from finetune.config.sections import DataConfig


@dataclass(frozen=True)
class DreamBoothDataConfig(DataConfig):
    """Images of the subject; captions are read where instance.captions is true."""

    caption_dropout: float = 0.0
    """Share of samples trained on the empty prompt; more than 0 writes the subject into the empty prompt too."""


@dataclass(frozen=True)
class InstanceConfig:
    """What the subject is called."""

    prompt: str | None = None
    """Prompt of every image in data.folder, e.g. "a photo of sks dog": a rare word, then the class. `finetune doctor
    tokens` proposes words."""
    captions: bool = False
    """Use the images' own captions instead."""

    def problems(self) -> list[str]:
        given = self.prompt is not None and self.prompt.strip() != ""
        if self.captions and self.prompt is not None:
            return [
                f'instance.prompt: got "{self.prompt}" with instance.captions true, where images keep their own '
                "captions. Remove one of the two."
            ]
        if not self.captions and not given:
            return [
                'instance.prompt: missing, expected the prompt of every image, such as "a photo of sks dog". Add it, '
                "or --instance.captions true where the images have captions."
            ]
        return []


@dataclass(frozen=True)
class PriorConfig:
    """What the model preserves of the subject's class (arXiv 2208.12242, section 3.3)."""

    kind: Literal["pictures", "prediction", "none"] = "pictures"
    """pictures trains on class images that the base model drew; prediction preserves the base model's predictions for
    prior.prompt on the subject's noisy images; none preserves nothing."""
    prompt: str | None = None
    """The class without the subject's word, e.g. "a photo of a dog"."""
    weight: float = 1.0
    """Factor on the loss of the class: lambda of equation 2."""
    num_pictures: int = 200
    """Class images to make; without effect where prior.folder holds them."""
    folder: str | None = None
    """Your own class images, in any form that data.folder accepts; none draws them."""
    captions: bool = False
    """Use the captions of the images in prior.folder instead of prior.prompt."""
    num_inference_steps: int = 50
    """Denoising steps of a class image."""
    guidance_scale: float | None = None
    """Guidance of class images; none takes the usual value of the architecture."""
    batch_size: int = 4
    """Class images that one process draws at a time."""
    seed: int = 0
    """Seed of the class images."""

    def problems(self) -> list[str]:
        found = []
        has_prompt = self.prompt is not None and self.prompt.strip() != ""
        if self.kind == "none" and self.prompt is not None:
            found.append(
                f'prior.prompt: got "{self.prompt}" with prior.kind none, which keeps nothing of the class. Remove it, '
                "or choose pictures or prediction."
            )
        if self.captions and self.prompt is not None:
            found.append(
                f'prior.prompt: got "{self.prompt}" with prior.captions true, where class images keep their own '
                "captions. Remove one of the two."
            )
        if self.captions and self.folder is None:
            found.append("prior.captions: got true without prior.folder, whose captions it reads. Add --prior.folder.")
        if self.kind != "none" and not has_prompt and not self.captions:
            found.append(
                f'prior.prompt: missing, expected the class for prior.kind {self.kind}, such as "a photo of a dog". '
                "Add it, --prior.captions true where the images in prior.folder have captions, or --prior.kind none."
            )
        if self.folder is not None and self.kind != "pictures":
            found.append(
                f"prior.folder: got {self.folder} with prior.kind {self.kind}, which reads no class images. Remove "
                "it, or choose pictures."
            )
        if self.weight <= 0:
            found.append(f"prior.weight: got {self.weight}, expected a number above 0; prior.kind none turns it off.")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            found.append(f"prior.guidance_scale: got {self.guidance_scale}, expected 0 or more.")
        if not 0 <= self.seed < 2**63:
            found.append(f"prior.seed: got {self.seed}, expected 0 to 2^63 - 1.")
        found += [
            f"prior.{name}: got {value}, expected 1 or more."
            for name, value in (
                ("num_pictures", self.num_pictures),
                ("num_inference_steps", self.num_inference_steps),
                ("batch_size", self.batch_size),
            )
            if value < 1
        ]
        return found


@dataclass(frozen=True)
class DreamBoothTrainConfig(AdaptConfig):
    """Teach a model a subject from a few images (DreamBooth, arXiv 2208.12242)."""

    data: DreamBoothDataConfig
    method: Literal["lora", "full"] = "lora"
    """What is tuned: low-rank adapters, or all weights."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    instance: InstanceConfig = field(default_factory=InstanceConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    def _contradictions(self) -> list[str]:
        found = super()._contradictions()
        found += full_contradictions(self) if self.method == "full" else adapter_contradictions(self, self.lora)
        if self.method == "full" and self.lora != LoRAConfig():
            found.append("lora: given with method full, which has no adapters. Remove the section or the method.")
        if self.method == "lora" and self.prior.kind == "prediction" and self.lora.init in ("pissa", "olora"):
            found.append(
                f"prior.kind: got prediction with lora.init {self.lora.init}, which moves a part of the weights into "
                "the adapters: without them the weights are not the base model's. Use prior.kind pictures."
            )
        if self.data.template != "{caption}":
            found.append(
                f'data.template: got "{self.data.template}", but the prompts of subject and class are written out. Put '
                "its words into instance.prompt."
            )
        if not self.instance.captions and self.data.captions != "listed":
            found.append(
                f"data.captions: got {self.data.captions}, but every image gets instance.prompt. Remove it, or add "
                "--instance.captions true."
            )
        if self.instance.captions and self.data.captions == "none":
            found.append(
                "instance.captions: got true with data.captions none, which reads none. Remove one of the two."
            )
        if self.instance.prompt and self.prior.prompt:
            instance, prior = (set(words(text)) for text in (self.instance.prompt, self.prior.prompt))
            if instance and instance <= prior:
                found.append(
                    f'instance.prompt: got "{self.instance.prompt}", expected a word for the subject that prior.prompt '
                    f'"{self.prior.prompt}" does not have: with one name for both, the class is taught and kept at a '
                    "time. `finetune doctor tokens` proposes words."
                )
        return found


def words(text: str) -> list[str]:
    """Return a prompt's words in lower case without surrounding punctuation."""
    stripped = (word.strip(".,;:!?\"'()[]") for word in text.lower().split())
    return [word for word in stripped if word]
