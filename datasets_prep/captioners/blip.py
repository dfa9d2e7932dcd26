"""BLIP and BLIP-2: one short sentence, which captions.prompt may begin."""

from collections.abc import Sequence

from PIL import Image

from datasets_prep.captioners.base import Kind, Result, check_asked
from datasets_prep.captioners.generation import generate, ids_of, results
from datasets_prep.captioners.local import LocalCaptioner
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.loading import load_model, load_part

NO_TAGS = "Their captions are a short sentence whatever is asked for; for tags take wd_tagger, florence2 or qwen_vl."


class BlipCaptioner(LocalCaptioner):
    """`BlipForConditionalGeneration`; captions.prompt is the beginning of every caption, e.g. "a drawing of"."""

    types = ("blip",)

    def __init__(self, config: CaptionsConfig) -> None:
        check_asked(config, ["short", "long"], NO_TAGS)
        super().__init__(config)

    def load(self) -> None:
        from transformers import AutoProcessor, BlipForConditionalGeneration

        self._processor = load_part(AutoProcessor.from_pretrained, self.files)
        self._model = load_model(BlipForConditionalGeneration, self.files, self.config)

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        beginning = (self.config.prompt or "").strip()
        texts = [beginning] * len(images) if beginning else None
        inputs = dict(self._processor(images=list(images), text=texts, return_tensors="pt"))
        # The class takes the last of the given ids for an end and drops it.
        num_given = inputs["input_ids"].shape[1] - 1 if texts else 1
        eos_ids = ids_of(self._model.config.text_config.sep_token_id)
        rows = generate(self._model, inputs, self.config.max_new_tokens, eos_ids, num_given)
        return results(self._processor.tokenizer, rows, f"{beginning} " if beginning else "")


class Blip2Captioner(LocalCaptioner):
    """`Blip2ForConditionalGeneration`; captions.prompt is what the language model continues."""

    types = ("blip-2",)

    def __init__(self, config: CaptionsConfig) -> None:
        check_asked(config, ["short", "long"], NO_TAGS)
        super().__init__(config)

    def load(self) -> None:
        from transformers import AutoProcessor, Blip2ForConditionalGeneration

        self._processor = load_part(AutoProcessor.from_pretrained, self.files)
        self._model = load_model(Blip2ForConditionalGeneration, self.files, self.config)
        # Checkpoints from before the processor put the image's places into the text do not say how many there are.
        self._processor.num_query_tokens = self._model.config.num_query_tokens

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        # The same text for all images, so that nothing is padded.
        text = (self.config.prompt or "").strip()
        inputs = dict(self._processor(images=list(images), text=[text] * len(images), return_tensors="pt"))
        is_encoder_decoder = self._model.config.text_config.is_encoder_decoder
        num_given = 1 if is_encoder_decoder else inputs["input_ids"].shape[1]
        eos_ids = ids_of(self._model.language_model.generation_config.eos_token_id)
        rows = generate(self._model, inputs, self.config.max_new_tokens, eos_ids, num_given)
        return results(self._processor.tokenizer, rows)
