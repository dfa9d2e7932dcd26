"""Tiny vision models with random weights, in folders as on the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LOOK: dict[str, Any] = {"image_size": SIDE, "patch_size": 8}
WORDS = ("<pad>", "<end>", "<unk>", "a", "red", "green", "blue", "square", "circle", "of", "on", "grey")
TEXT = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 1, "pad_token_id": 0}


def save_classifier(folder: Path, labels: Sequence[str], problem_type: Any = None) -> Path:
    """A ViT that tells the labels apart, at random."""
    names = dict(enumerate(labels))
    config = ViTConfig(**SIZES, **LOOK, initializer_range=0.5, id2label=names, problem_type=problem_type)
    config.label2id = {label: number for number, label in names.items()}
    _save(folder, ViTForImageClassification, config)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    config = CLIPConfig(
        text_config=TEXT | {"initializer_factor": 10.0},
        vision_config=SIZES | LOOK | {"initializer_factor": 10.0},
        projection_dim=8,
    )
    _save(folder, CLIPModel, config)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    _save(folder, SiglipModel, SiglipConfig(text_config=TEXT, vision_config=SIZES | LOOK))
    SiglipImageProcessorPil(size=SQUARE).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    _save(folder, Dinov2Model, Dinov2Config(**SIZES, **LOOK, initializer_range=0.5))
    BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE).save_pretrained(folder)
    return folder


def save_convnext(folder: Path) -> Path:
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], initializer_range=0.5)
    _save(folder, ConvNextModel, config)
    ConvNextImageProcessorPil(size={"shortest_edge": SIDE}).save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    """Five images of different sizes that differ in colour and shape."""
    gradient = Image.linear_gradient("L")
    found = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green")]
    for size, turn in (((64, 32), 0), ((30, 50), 90), ((48, 48), 180)):
        turned = gradient.rotate(turn).resize(size)
        found.append(Image.merge("RGB", (turned, Image.new("L", size, turn), gradient.resize(size))))
    return found


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=12
    )


def _save(folder: Path, model_class: Any, config: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
