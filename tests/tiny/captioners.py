"""Tiny caption models with random weights, in folders as on the Hub. They write words at random."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

TEXT = (
    "a an the red green blue yellow black white grey circle square triangle cross on in of with and paper wall house "
    "tree dog cat bird boat sea sky sun moon small large old new light dark left right above below behind photo drawing"
)
WIDTH = 32
SIZES = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 8, "initializer_range": 0.3}


def save_blip(folder: Path) -> Path:
    tokenizer = _tokenizer(["[PAD]", "[CLS]", "[SEP]", "[DEC]"], pad="[PAD]", eos="[SEP]", around=("[CLS]", "[SEP]"))
    text = SIZES | {"vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH, "initializer_range": 0.3}
    text |= {"bos_token_id": _id(tokenizer, "[DEC]"), "sep_token_id": _id(tokenizer, "[SEP]"), "pad_token_id": 0}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH)
    _save(folder, BlipForConditionalGeneration, config)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    tokenizer = _tokenizer(["<pad>", "</s>", "<image>"], pad="<pad>", eos="</s>", bos="</s>", around=("</s>", None))
    text = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": WIDTH, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "init_std": 0.3}
    text |= {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "model_type": "opt"}
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=SIZES | {"encoder_hidden_size": WIDTH, "vocab_size": 8, "initializer_range": 0.3},
        text_config=text,
        num_query_tokens=4,
        image_token_index=_id(tokenizer, "<image>"),
    )
    _save(folder, Blip2ForConditionalGeneration, config)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_florence2(folder: Path) -> Path:
    special = ["<s>", "<pad>", "</s>", "<image>", *(f"<loc_{number}>" for number in range(4))]
    tokenizer = _tokenizer(special, pad="<pad>", eos="</s>", bos="<s>", named={"image_token": "<image>"})
    vision = {"embed_dim": [8, 16], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision |= {"patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True]}
    vision |= {"projection_dim": WIDTH, "window_size": 4, "drop_path_rate": 0.0, "initializer_range": 0.3}
    text = {"model_type": "bart", "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 2, "init_std": 0.3}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "bos_token_id": 0, "pad_token_id": 1}
    text |= {"eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=_id(tokenizer, "<image>"))
    _save(folder, Florence2ForConditionalGeneration, config)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False, image_seq_length=17)
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_qwen3_vl(folder: Path) -> Path:
    text = {"head_dim": 16, "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}}
    vision = {"intermediate_size": WIDTH, "out_hidden_size": WIDTH, "num_position_embeddings": 64}
    vision |= {"deepstack_visual_indexes": [0]}
    return _save_qwen(folder, Qwen3VLForConditionalGeneration, Qwen3VLConfig, text, vision)


def save_qwen2_5_vl(folder: Path) -> Path:
    text = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}}
    vision = {"intermediate_size": WIDTH, "out_hidden_size": WIDTH, "window_size": 16, "fullatt_block_indexes": [1]}
    return _save_qwen(folder, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, text, vision)


def _save_qwen(folder: Path, model: Any, config: Any, text: dict[str, Any], vision: dict[str, Any]) -> Path:
    tokenizer = _tokenizer(QWEN_SPECIAL, pad="<|endoftext|>", eos="<|im_end|>")
    tokenizer.chat_template = QWEN_TEMPLATE
    text |= {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3, "pad_token_id": 0}
    text |= {"bos_token_id": 0, "eos_token_id": 2}
    vision |= {"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2, "initializer_range": 0.3}
    names = ("image", "video", "vision_start", "vision_end")
    places = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = {f"{name}_token_id": _id(tokenizer, token) for name, token in zip(names, places, strict=True)}
    _save(folder, model, config(text_config=text, vision_config=vision, **ids), eos=2, pad=0)
    Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 1024}
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LLAVA_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] | upper }} : {% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{{ raise_exception('text only') }}{% endif %} {% endfor %}ASSISTANT :"
)
"""Takes text only, unlike Qwen's, and has no place for the image of its own: what old checkpoints look like."""


def save_llava(folder: Path) -> Path:
    tokenizer = _tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad="<pad>", eos="</s>", bos="<s>")
    vision = SIZES | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "initializer_factor": 10.0}
    text = SIZES | {"model_type": "llama", "vocab_size": len(tokenizer), "initializer_range": 0.3}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=_id(tokenizer, "<image>"), image_seq_length=16
    )
    _save(folder, LlavaForConditionalGeneration, config, eos=2, pad=0)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    options: dict[str, Any] = {"patch_size": 8, "num_additional_image_tokens": 1, "chat_template": LLAVA_TEMPLATE}
    options |= {"vision_feature_select_strategy": "default"}
    LlavaProcessor(images, tokenizer, **options).save_pretrained(folder)
    return folder


SAVED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "blip": ("blip", save_blip),
    "blip2": ("blip2", save_blip2),
    "florence2": ("florence2", save_florence2),
    "qwen2_5_vl": ("qwen_vl", save_qwen2_5_vl),
    "qwen3_vl": ("qwen_vl", save_qwen3_vl),
    "llava": ("llava", save_llava),
}
"""Name -> captioner and what saves a model for it."""

TAGGER_TAGS = {"general": "9", "long_hair": "0", "^_^": "0", "red_theme": "0", "blue_theme": "0", "rei_(x)": "4"}
"""Name -> category."""
TAGGER_SIDE = 16


def save_tagger(folder: Path, *, fixed_batch: bool = False) -> Path:
    """Save a tagger of mean red and blue; needs onnx."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    # [B 3] mean blue, green, red in 0 to 1 -> [B 6]; .9 for long_hair, .3 for the face, .8 for the character
    weights = torch.zeros(3, len(TAGGER_TAGS))
    weights[2, 3] = weights[0, 4] = 1 / 255
    constants = torch.tensor([1.0, 0.9, 0.36, 0.0, 0.0, 0.8])
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "constants"], ["output"]),
    ]
    shape = [1 if fixed_batch else "batch", TAGGER_SIDE, TAGGER_SIDE, 3]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [shape[0], len(TAGGER_TAGS)])],
        [
            numpy_helper.from_array(torch.tensor([1, 2]).numpy(), "axes"),
            numpy_helper.from_array(weights.numpy(), "weights"),
            numpy_helper.from_array(constants.numpy(), "constants"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows([number, name, category, 1] for number, (name, category) in enumerate(TAGGER_TAGS.items()))
    return folder


def pictures(count: int = 3) -> list[Image.Image]:
    """Images that differ in colours and size."""
    sizes = ((40, 40), (64, 32), (24, 56))
    gradients = [Image.linear_gradient("L").resize(sizes[number % 3]) for number in range(count)]
    levels = [(40 * number) % 256 for number in range(count)]
    return [
        Image.merge("RGB", (image, Image.new("L", image.size, level), image.transpose(Image.Transpose.ROTATE_180)))
        for image, level in zip(gradients, levels, strict=True)
    ]


def _tokenizer(
    special: Sequence[str],
    *,
    pad: str,
    eos: str,
    bos: str | None = None,
    around: tuple[str, str | None] | None = None,
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*special, "<unk>", *TEXT.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    if around is not None:
        parts = [part for part in (around[0], "$A", around[1]) if part is not None]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=[(part, vocabulary[part]) for part in parts if part != "$A"]
        )
    names = {"pad_token": pad, "eos_token": eos} | ({"bos_token": bos} if bos else {})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", extra_special_tokens=named or [], **names
    )


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def _save(folder: Path, model_class: Any, config: Any, eos: int | None = None, pad: int | None = None) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
    if eos is not None:
        model.generation_config.eos_token_id = eos
        model.generation_config.pad_token_id = pad
    # As real checkpoints do: what samples and searches is to be overridden.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.7
    model.save_pretrained(folder)
