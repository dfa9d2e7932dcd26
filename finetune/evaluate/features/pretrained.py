"""Features of other models, by transformers id or local folder. They are read from safetensors alone, and run no code
of their own. Axes: N images, K texts, D width, h w pixels."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from finetune.evaluate.features.base import as_levels, unit_rows
from finetune.plurals import plural

IMAGE_AND_TEXT = ("align", "altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")
"""Types of models that put images and texts into one space."""
QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'
"""Of VQAScore (arXiv 2404.01291, section 3)."""
WITHOUT_TEMPLATE = "USER: {image}\n{question} ASSISTANT:"
BATCH = 8


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk or on the Hub, for one option."""

    option: str
    model: str
    revision: str | None
    """The commit of a Hub model."""
    digest: str
    """What tells it from others of its name."""

    @property
    def name(self) -> str:
        """The name in results, with hash or commit. A folder's is its last part."""
        shown = self.model if self.revision else Path(self.model).resolve().name
        return f"{shown}@{self.digest[:10]}"

    def part(self, from_pretrained: Callable[..., Any], **options: Any) -> Any:
        """Load a part. Raises ValueError with the reason where it does not load."""
        try:
            return from_pretrained(self.model, revision=self.revision or "main", trust_remote_code=False, **options)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{self.option}: {self.model} cannot be loaded ({type(error).__name__}: {reason}). Expected a model "
                "of transformers' own classes with safetensors."
            ) from error

    def weights(self, kind: Any, device: torch.device) -> Any:
        """Load the model in float32. Missing weights would be random, so they are refused."""
        model, report = self.part(
            kind.from_pretrained, output_loading_info=True, use_safetensors=True, dtype=torch.float32
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{self.option}: {self.model} lacks {plural(len(missing), 'weight')} of a {type(model).__name__}, e.g. "
                f"{missing[0]}. Name a model that was trained for this."
            )
        return model.to(device).eval().requires_grad_(False)


def model_files(option: str, model: str) -> ModelFiles:
    """Find a model. Raises ValueError where it is neither a folder nor on the Hub."""
    from finetune.evaluate.target import weights_digest

    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return ModelFiles(option, str(path), None, weights_digest(path))
    if path.exists() or model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ValueError(f"{option}: no config.json in {model}, expected embedded, a model's folder, or a Hub id.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        commit = Path(hf_hub_download(model, "config.json")).parent.name
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{option}: {model} is not a folder, and not to be had from the Hub. Fetch it while online: hf download "
            f"{model}"
        ) from error
    return ModelFiles(option, model, commit, commit)


def as_images(images: Tensor) -> list[Image.Image]:
    """Convert images [N 3 h w] in [0, 1] to Pillow's."""
    return [Image.fromarray(each) for each in as_levels(images)]


def bare(output: Any) -> Tensor:
    """Return features [N D]. They are bare before transformers 5."""
    return output if isinstance(output, Tensor) else output.pooler_output


@dataclass(frozen=True, eq=False)
class VisionFeature:
    """The pooled output of a vision model, such as DINOv2. Of CLIP and SigLIP it is the image features."""

    name: str
    model: Any
    processor: Any

    @staticmethod
    def loaded(files: ModelFiles, device: torch.device) -> "VisionFeature":
        """Load a model with its image processor."""
        from transformers import AutoImageProcessor, AutoModel

        processor = files.part(AutoImageProcessor.from_pretrained, backend="pil")
        return VisionFeature(files.name, files.weights(AutoModel, device), processor)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        found = []
        for part in images.split(BATCH):
            inputs = self.processor(images=as_images(part), return_tensors="pt").to(self.model.device)
            has_texts = self.model.config.model_type in IMAGE_AND_TEXT
            output = self.model.get_image_features(**inputs) if has_texts else self.model(**inputs)
            found.append(bare(output).float().flatten(1).cpu())
        return unit_rows(torch.cat(found))


@dataclass(frozen=True, eq=False)
class CosineFit:
    """The cosine of image and text, by a model such as CLIP."""

    name: str
    images: VisionFeature
    tokenizer: Any
    judges_style: bool = False

    @staticmethod
    def loaded(files: ModelFiles, device: torch.device) -> "CosineFit":
        """Load a model with its image processor and tokenizer."""
        from transformers import AutoTokenizer

        tokenizer = files.part(AutoTokenizer.from_pretrained)
        return CosineFit(f"cosine of {files.name}", VisionFeature.loaded(files, device), tokenizer)

    @torch.no_grad()
    def fits(self, image: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Compute the fit [K] of an image [3 h w] in [0, 1] to texts."""
        model = self.images.model
        longest = min(model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length)
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        if model.config.model_type.startswith("siglip"):  # it was trained to look at the padding, too
            tokens.pop("attention_mask", None)
        of_texts = unit_rows(bare(model.get_text_features(**tokens.to(model.device))).float().cpu())
        return (of_texts @ self.images.encode(image[None])[0]).double().numpy()


@dataclass(frozen=True, eq=False)
class AnswerFit:
    """VQAScore: the log probability that a vision-language model answers Yes (arXiv 2404.01291)."""

    name: str
    model: Any
    processor: Any
    judges_style: bool = False

    @staticmethod
    def loaded(files: ModelFiles, device: torch.device) -> "AnswerFit":
        """Load a model with its processor."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = files.part(AutoProcessor.from_pretrained)
        return AnswerFit(f"VQAScore of {files.name}", files.weights(AutoModelForImageTextToText, device), processor)

    @torch.no_grad()
    def fits(self, image: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Compute the fit [K] of an image [3 h w] to texts, one by one."""
        shown = as_images(image[None])
        found = []
        for text in texts:
            prompt = self.prompt(QUESTION.format(text=text))
            inputs = self.processor(images=shown, text=[prompt], return_tensors="pt").to(self.model.device)
            logits = self.model(**inputs).logits[0, -1].double().cpu()
            found.append(float(logits.log_softmax(0)[self.yes]))
        return np.array(found)

    @property
    def yes(self) -> int:
        """The first token of the answer Yes."""
        return self.processor.tokenizer("Yes", add_special_tokens=False).input_ids[0]

    def prompt(self, question: str) -> str:
        """Write the question as the model was trained to read it."""
        token = self.processor.image_token
        if self.processor.chat_template is None:
            return WITHOUT_TEMPLATE.format(image=token, question=question)
        for content in ([{"type": "image"}, {"type": "text", "text": question}], f"{token}\n{question}"):
            with contextlib.suppress(TemplateError):  # templates of old checkpoints take text alone
                messages = [{"role": "user", "content": content}]
                text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
                if text.count(token) == 1 and question in text:
                    return text
        raise ValueError(f"features.adherence: the template of {self.name} has no place for an image. Use another.")


def prompt_measure(files: ModelFiles, device: torch.device) -> CosineFit | AnswerFit:
    """Load the measure of prompts that a model is made for."""
    from transformers import AutoConfig

    kind = files.part(AutoConfig.from_pretrained).model_type
    return (CosineFit if kind in IMAGE_AND_TEXT else AnswerFit).loaded(files, device)
