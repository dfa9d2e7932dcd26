"""Transformers models that look at images, for scores and embeddings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from datasets_prep.vision.loading import device_name, load_part
from datasets_prep.vision.model_files import ModelFiles, find_model
from finetune.plurals import plural

IMAGE_AND_TEXT = ("align", "altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")
"""Types of models that put images and texts into one space."""


class VisionModel:
    """The files of a model. Errors name the option that needs it."""

    def __init__(self, option: str, model: str) -> None:
        self._option = option
        with self._errors():
            self._files: ModelFiles = find_model(model)

    def identity(self) -> str:
        return self._files.identity()

    def config(self) -> Any:
        from transformers import AutoConfig

        return self._part(AutoConfig.from_pretrained)

    def image_processor(self) -> Any:
        """Load the image processor. It uses Pillow where there is a choice, so all machines agree."""
        from transformers import AutoImageProcessor

        return self._part(AutoImageProcessor.from_pretrained, backend="pil")

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._part(AutoTokenizer.from_pretrained)

    def weights(self, auto_class: Any, *, may_lack: str | None = None) -> tuple[Any, bool]:
        """Load the model in float32 onto its device. Also returns whether it lacks the part `may_lack`. Other missing
        weights would be random, so they are refused."""
        model, report = self._part(auto_class.from_pretrained, output_loading_info=True, dtype="float32")
        missing = sorted(report["missing_keys"])
        others = [name for name in missing if may_lack is None or may_lack not in name.split(".")]
        if others:
            raise ValueError(
                f"{self._option}: {self._files.model} lacks {plural(len(others), 'weight')} of a "
                f"{type(model).__name__}, e.g. {others[0]}. Name a model that was trained for this."
            )
        return model.to(device_name()).eval(), bool(missing)

    def _part(self, from_pretrained: Callable[..., Any], **options: Any) -> Any:
        with self._errors():
            return load_part(from_pretrained, self._files, **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise ValueError(self._lacking(str(error))) from error
        except ValueError as error:
            text = str(error)
            if "torchvision" in text:
                raise ValueError(self._lacking(text)) from error
            raise ValueError(text.replace("captions.model", self._option, 1)) from error

    def _lacking(self, text: str) -> str:
        package = next((name for name in ("torchvision", "timm") if name in text.lower()), None)
        if package is None:
            return f"{self._option}: {' '.join(text.split())[:300]}"
        return (
            f"{self._option}: {self._files.model} needs {package}, which most models do without: pip install "
            f"{package}, in the version for your torch."
        )


def image_inputs(processor: Any, images: Sequence[Image.Image], device: Any) -> dict[str, Any]:
    """Convert images to tensors for the model, on its device."""
    inputs = processor(images=list(images), return_tensors="pt")
    return {name: value.to(device) for name, value in inputs.items()}


def features(output: Any) -> Any:
    """Return the features [B D] of images or texts. They are bare before transformers 5."""
    import torch

    return output if isinstance(output, torch.Tensor) else output.pooler_output
