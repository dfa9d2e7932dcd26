"""Models of the LLaVA class, such as LLaVA 1.5 and JoyCaption."""

from collections.abc import Sequence

from PIL import Image

from datasets_prep.captioners.base import Kind, Result, model_of, prompt_for
from datasets_prep.captioners.chat import Message, chat_prompt
from datasets_prep.captioners.generation import generate, ids_of, results
from datasets_prep.captioners.local import LocalCaptioner
from datasets_prep.vision.loading import load_model, load_part

SYSTEM = "You are a helpful image captioner."


class LlavaCaptioner(LocalCaptioner):
    """`LlavaForConditionalGeneration` with its processor and chat template."""

    types = ("llava",)

    def load(self) -> None:
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        self._processor = load_part(AutoProcessor.from_pretrained, self.files)
        self._model = load_model(LlavaForConditionalGeneration, self.files, self.config)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self._processor.patch_size is None:  # checkpoints from before the processor counted an image's tokens
            config = self._model.config
            self._processor.patch_size = config.vision_config.patch_size
            self._processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            has_class_token = config.vision_config.model_type == "clip_vision_model"
            self._processor.num_additional_image_tokens = int(has_class_token)

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        texts = [
            chat_prompt(
                self._render,
                prompt_for(self.config, kind, hint),
                SYSTEM,
                self._processor.image_token,
                model_of(self.config),
            )
            for hint in hints
        ]
        # Templates write the token that begins a text themselves.
        begins = texts[0].startswith(self._processor.tokenizer.bos_token or "\0")
        inputs = dict(
            self._processor(
                images=list(images), text=texts, return_tensors="pt", padding=True, add_special_tokens=not begins
            )
        )
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        eos_ids = ids_of(self._model.generation_config.eos_token_id)
        rows = generate(self._model, inputs, self.config.max_new_tokens, eos_ids, inputs["input_ids"].shape[1])
        return results(self._processor.tokenizer, rows)

    def _render(self, messages: list[Message]) -> str:
        return self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
