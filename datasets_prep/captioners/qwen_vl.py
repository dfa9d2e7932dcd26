"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, which follow any instruction."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from datasets_prep.captioners.base import Kind, Result, model_of, prompt_for
from datasets_prep.captioners.chat import Message, chat_prompt
from datasets_prep.captioners.generation import generate, ids_of, results
from datasets_prep.captioners.local import LocalCaptioner
from datasets_prep.vision.loading import load_model, load_part

IMAGE_TOKEN = "<|image_pad|>"


class QwenVLCaptioner(LocalCaptioner):
    """`AutoModelForImageTextToText` with the model's image processor and tokenizer. The processor class that joins the
    two also needs a video processor and with it torchvision. For images it only repeats a token once per patch, which
    is done here instead."""

    types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
    _tokenizer: Any = None

    def load(self) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        self._processor = load_part(AutoImageProcessor.from_pretrained, self.files)
        self._tokenizer = load_part(AutoTokenizer.from_pretrained, self.files)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.chat_template is None:
            path = self.files.file("chat_template.json")
            self._tokenizer.chat_template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
        self._model = load_model(AutoModelForImageTextToText, self.files, self.config)

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        pixels = self._processor(images=list(images), return_tensors="pt")
        counts = pixels["image_grid_thw"].prod(dim=1) // self._processor.merge_size**2
        texts = [
            chat_prompt(self._render, prompt_for(self.config, kind, hint), None, IMAGE_TOKEN, model_of(self.config))
            for hint in hints
        ]
        pairs = zip(texts, counts.tolist(), strict=True)
        texts = [text.replace(IMAGE_TOKEN, IMAGE_TOKEN * count) for text, count in pairs]
        tokens = self._tokenizer(texts, return_tensors="pt", padding=True)
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")} | dict(pixels)
        if "mm_token_type_ids" in inspect.signature(self._model.forward).parameters:  # from transformers 5 on
            image_id = self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
            inputs["mm_token_type_ids"] = (tokens["input_ids"] == image_id).int()
        eos_ids = ids_of(self._model.generation_config.eos_token_id)
        rows = generate(self._model, inputs, self.config.max_new_tokens, eos_ids, inputs["input_ids"].shape[1])
        return results(self._tokenizer, rows)

    def _render(self, messages: list[Message]) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
