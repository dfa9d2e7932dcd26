"""Learned scores of images, by transformers models."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from PIL import Image

from datasets_prep.config import SCORES
from datasets_prep.vision.batches import in_batches
from datasets_prep.vision.model_files import digest
from datasets_prep.vision.models import IMAGE_AND_TEXT, VisionModel, features, image_inputs
from finetune.import_named import import_named

VERSION = 1
"""Increased when the same model gives other scores."""

MEANT: Mapping[str, tuple[str, ...]] = {
    "nsfw": ("nsfw", "unsafe", "explicit", "porn", "pornography", "pornographic", "hentai", "sexy", "sexual", "nude",
             "nudity", "erotic", "erotica", "gore"),
    "watermark": ("watermark", "watermarked", "watermarks"),
    "aesthetic": ("aesthetic", "beautiful", "good", "great", "excellent", "best", "high", "hq"),
}  # fmt: skip
"""Words in labels whose probability is the score."""
OPPOSITE: Mapping[str, tuple[str, ...]] = {
    "nsfw": ("sfw", "safe", "normal", "neutral"),
    "watermark": ("clean",),
    "aesthetic": ("bad", "ugly", "low", "lq", "worst"),
}
"""Words in the other labels; denied ("not safe"), they count as meant."""
DENIALS = ("no", "not", "non", "without")


class Scorer(Protocol):
    """A model that gives every image a number."""

    name: str
    """Of the score."""

    def identity(self) -> str:
        """Hash what scores depend on besides image and caption. It needs no `load`."""
        ...

    def load(self) -> None:
        """Load the model. Raises ValueError where it cannot be had."""
        ...

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]: ...


def make_scorer(name: str, model: str) -> Scorer:
    """Make the scorer of a model, without its weights. Raises ValueError where the model cannot give the score."""
    return import_named(SCORES[name].place)(name, model)


def scores_of(
    scorer: Scorer,
    indices: Sequence[int],
    load: Callable[[int], Image.Image],
    captions: Mapping[int, str],
    batch_size: int,
) -> Iterator[tuple[int, float]]:
    """Yield images' scores in order, rounded to five digits. Where captions are needed, images without are skipped."""
    if SCORES[scorer.name].of_captions:
        indices = [index for index in indices if captions.get(index, "").strip()]
    if not indices:
        return
    scorer.load()

    def compute(pairs: Sequence[tuple[Image.Image, str]]) -> list[float]:
        return scorer.score([image for image, _ in pairs], [caption for _, caption in pairs])

    option = f"scores.{scorer.name}_model"
    found = in_batches(lambda index: (load(index), captions.get(index, "")), compute, indices, batch_size, option)
    for index, score in found:
        if score != score:
            raise ValueError(f"{option}: the model gives no number (NaN). Its weights are broken.")
        yield index, float(f"{score:.5g}")  # the digits after that differ between machines


@dataclass(frozen=True)
class Reading:
    """How a classifier's outputs make a score."""

    activation: Literal["none", "softmax", "sigmoid"]
    weights: tuple[float, ...]
    """Of every output in the sum."""


def reading_of(name: str, labels: Sequence[str], *, is_multi_label: bool = False) -> Reading:
    """Choose how outputs with these labels make the score. Raises ValueError where none of them means it."""
    if name == "aesthetic":
        if len(labels) == 1:
            return Reading("none", (1.0,))
        numbers = [re.fullmatch(r"\D*(\d+(?:\.\d+)?)\D*", label) for label in labels]
        if all(numbers) and not any(label.lower().startswith("label_") for label in labels):
            return Reading("softmax", tuple(float(number[1]) for number in numbers if number))
    weights = tuple(float(_is_meant(name, label)) for label in labels)
    if not any(weights) or (all(weights) and len(weights) > 1):
        shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        expected = f"at least one with a word such as {', '.join(MEANT[name][:4])}, and one without"
        if name == "aesthetic":
            expected += "; or numbers; or a single output"
        raise ValueError(f"scores.{name}_model: the labels of the model are {shown}; expected {expected}.")
    return Reading("sigmoid" if is_multi_label or len(labels) == 1 else "softmax", weights)


def _is_meant(name: str, label: str) -> bool:
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", label).lower()))
    is_denied = not words.isdisjoint(DENIALS)
    return not words.isdisjoint(OPPOSITE[name] if is_denied else MEANT[name])


class ClassifierScorer:
    """An image classifier. It gives the probability of the meant labels, an expected grade, or its one output."""

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        self._model_files = VisionModel(f"scores.{name}_model", model)
        config = self._model_files.config()
        labels = [str(config.id2label[number]) for number in sorted(config.id2label)]
        is_multi_label = config.problem_type == "multi_label_classification"
        self._reading = reading_of(name, labels, is_multi_label=is_multi_label)
        self._processor = self._model_files.image_processor()
        self._model: Any = None

    def identity(self) -> str:
        return digest(self.name, model=self._model_files.identity(), version=VERSION)

    def load(self) -> None:
        from transformers import AutoModelForImageClassification

        self._model, _ = self._model_files.weights(AutoModelForImageClassification)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        import torch

        with torch.inference_mode():
            logits = self._model(**image_inputs(self._processor, images, self._model.device)).logits.float().cpu()
        if self._reading.activation == "none":
            return logits[:, 0].tolist()
        weights = torch.tensor(self._reading.weights)
        if self._reading.activation == "sigmoid":  # labels that do not exclude each other: the likeliest counts
            return (logits.sigmoid() * weights).amax(1).tolist()
        return (logits.softmax(1) @ weights).tolist()


class AgreementScorer:
    """CLIP or SigLIP: the cosine between image and caption, -1 to 1. CLIP's are about .15 to .35 and SigLIP's about 0
    to .2, so a limit suits one model only."""

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        self._model_files = VisionModel(f"scores.{name}_model", model)
        self._config = self._model_files.config()
        if self._config.model_type not in IMAGE_AND_TEXT:
            raise ValueError(
                f"scores.{name}_model: {model} is a model of type {self._config.model_type}, expected one of "
                f"{', '.join(IMAGE_AND_TEXT)}."
            )
        self._processor = self._model_files.image_processor()
        self._tokenizer = self._model_files.tokenizer()
        self._model: Any = None

    def identity(self) -> str:
        return digest(self.name, model=self._model_files.identity(), version=VERSION)

    def load(self) -> None:
        from transformers import AutoModel

        self._model, _ = self._model_files.weights(AutoModel)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        import torch

        longest = min(self._config.text_config.max_position_embeddings, self._tokenizer.model_max_length)
        texts = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        if self._config.model_type.startswith("siglip"):  # it was trained to look at the padding, too
            texts.pop("attention_mask", None)
        with torch.inference_mode():
            of_texts = features(self._model.get_text_features(**texts.to(self._model.device)))
            inputs = image_inputs(self._processor, images, self._model.device)
            of_images = features(self._model.get_image_features(**inputs))
        return torch.nn.functional.cosine_similarity(of_images.float(), of_texts.float()).tolist()
