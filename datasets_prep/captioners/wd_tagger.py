"""WD taggers, version 3: tags of drawings with onnxruntime."""

import csv
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datasets_prep.captioners.base import Kind, Result, check_asked, model_of
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.model_files import ModelFiles, digest, find_model
from finetune.extras import install_command

MODEL, TAGS = "model.onnx", "selected_tags.csv"
GENERAL, CHARACTER = "0", "4"
"""Categories in the table of tags; the others (9, ratings) are not used."""
CHARACTER_THRESHOLD = 0.85


class WDTagger:
    """A folder or Hub id with model.onnx and selected_tags.csv, e.g. SmilingWolf/wd-eva02-large-tagger-v3."""

    def __init__(self, config: CaptionsConfig) -> None:
        check_asked(config, ["tags"], "Set captions.kinds to tags.", follows_prompt=False)
        self.config = config
        self.name = f"wd_tagger {model_of(config)}"
        self.batch_size = config.batch_size
        self._session: Any = None
        self._tags: list[tuple[str, str]] = []
        self._has_free_batch = True

    @functools.cached_property
    def _files(self) -> ModelFiles:
        return find_model(model_of(self.config), TAGS)

    def identity(self) -> str:
        config = self.config
        return digest("wd_tagger", model=self._files.identity(), threshold=config.threshold, max_side=config.max_side)

    def load(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                "captions.captioner: wd_tagger needs onnxruntime, which is not installed. Run: "
                f"{install_command('tagger')}"
            ) from error
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        path = self._files.file(MODEL)
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=providers)
        except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
            raise ValueError(f"captions.model: {path} is not an ONNX model ({error}). Fetch it again.") from error
        self._tags = self._read_tags()
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2]:
            raise ValueError(
                f"captions.model: {path} takes {shape}, expected [batch, side, side, 3] as in WD taggers. Name another."
            )
        self._has_free_batch = shape[0] != 1

    def _read_tags(self) -> list[tuple[str, str]]:
        path = self._files.file(TAGS)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                tags = [(row["name"], row["category"]) for row in csv.DictReader(file)]
        except (KeyError, ValueError, csv.Error) as error:
            raise ValueError(
                f"captions.model: {path} is not as expected ({error!r}), a table with columns name and category."
            ) from error
        num_outputs = self._session.get_outputs()[0].shape[-1]
        if isinstance(num_outputs, int) and num_outputs != len(tags):
            raise ValueError(
                f"captions.model: {path} names {len(tags):,} tags, but {MODEL} gives {num_outputs:,}. Fetch both again."
            )
        return tags

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        given = self._session.get_inputs()[0]
        batch = np.stack([tagger_input(image, given.shape[1]) for image in images])
        parts = [batch] if self._has_free_batch else [batch[place : place + 1] for place in range(len(batch))]
        outputs = [self._session.run(None, {given.name: part})[0] for part in parts]
        return [self._result(row) for row in np.concatenate(outputs)]

    def _result(self, probabilities: np.ndarray) -> Result:
        limits = {GENERAL: self.config.threshold, CHARACTER: max(CHARACTER_THRESHOLD, self.config.threshold)}
        likeliest = np.argsort(-probabilities, kind="stable").tolist()
        named = [
            spelled(self._tags[place][0])
            for category in (CHARACTER, GENERAL)
            for place in likeliest
            if self._tags[place][1] == category and probabilities[place] >= limits[category]
        ]
        return Result(", ".join(named), len(named), "stop")


def tagger_input(image: Image.Image, side: int) -> np.ndarray:
    """Square input of the taggers, [side side 3] float32. On white, blue comes first, and values are 0 to 255."""
    square = Image.new("RGB", (max(image.size), max(image.size)), "white")
    square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
    resized = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)[:, :, ::-1]


def spelled(tag: str) -> str:
    """Replace underscores by spaces, except in faces such as ^_^."""
    return tag.replace("_", " ") if re.search(r"[^\W_]{2}", tag) else tag
