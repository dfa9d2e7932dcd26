"""Florence-2: captions by its task words, tags from the objects it finds."""

import re
from collections.abc import Sequence

from PIL import Image

from datasets_prep.captioners.base import Kind, Result, check_asked
from datasets_prep.captioners.generation import generate, ids_of
from datasets_prep.captioners.local import LocalCaptioner
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.loading import load_model, load_part

TASKS: dict[Kind, str] = {"short": "<CAPTION>", "long": "<MORE_DETAILED_CAPTION>", "tags": "<OD>"}
LOCATIONS = re.compile(r"(?:<loc_\d+>)+")


class Florence2Captioner(LocalCaptioner):
    """`Florence2ForConditionalGeneration`; captions.prompt may name another task, e.g. <DETAILED_CAPTION>."""

    types = ("florence2",)

    def __init__(self, config: CaptionsConfig) -> None:
        check_asked(config, ["short", "long", "tags"])
        super().__init__(config)

    def load(self) -> None:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        try:
            self._processor = load_part(AutoProcessor.from_pretrained, self.files)
            self._model = load_model(Florence2ForConditionalGeneration, self.files, self.config)
        except ValueError as error:
            raise ValueError(
                f"{error} The first releases of Florence-2 carry code of their own, which is never run; those of "
                "florence-community do without, e.g. florence-community/Florence-2-base."
            ) from error

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        task = TASKS[kind] if self.config.prompt is None else self.config.prompt
        inputs = self._processor(text=[task] * len(images), images=list(images), return_tensors="pt", padding=True)
        eos_ids = ids_of(self._model.generation_config.eos_token_id)
        rows = generate(self._model, inputs, self.config.max_new_tokens, eos_ids, num_given=1)
        return [self._result(ids, has_end, kind) for ids, has_end in rows]

    def _result(self, ids: list[int], has_end: bool, kind: Kind) -> Result:
        text = self._processor.tokenizer.decode(ids, skip_special_tokens=False)
        text = re.sub(r"</?s>|<pad>", "", text)
        text = object_names(text) if kind == "tags" else LOCATIONS.sub(" ", text)
        return Result(text, len(ids), "stop" if has_end else "length")


def object_names(text: str) -> str:
    """List each object once. The text is like "chair<loc_1><loc_2><loc_3><loc_4>window<loc_5>..."."""
    names = [part.strip(" ,") for part in LOCATIONS.split(text)]
    return ", ".join(dict.fromkeys(name for name in names if name))
