"""Bytes of frozen layers in fewer bits or in host memory."""

from dataclasses import dataclass

import torch
from torch import nn

from finetune.config.sections import ModelConfig
from finetune.models.quantized.number_formats import NF4_BLOCK, SCALE_BLOCK

FLOAT32 = 4


@dataclass(frozen=True)
class Packing:
    """The effect of `model.quantization` and `model.offload`."""

    saved: int = 0
    """Bytes that leave the device."""
    unpacking: int = 0
    """Bytes that one layer takes while it is used."""
    host: int = 0
    """Bytes in host memory."""


def packing(denoiser: nn.Module, config: ModelConfig, dtype: torch.dtype) -> Packing:
    """Count it for the linear layers of the blocks. They would otherwise be kept in `dtype`."""
    if config.quantization == "none" and not config.offload:
        return Packing()
    layers = [
        layer
        for name, layer in denoiser.named_modules()
        if type(layer) is nn.Linear and any(piece.isdigit() for piece in name.split("."))
    ]
    before = sum(layer.weight.numel() * dtype.itemsize for layer in layers)
    now = round(sum(packed_bytes(layer, config, dtype) for layer in layers))
    largest = max(layer.weight.numel() for layer in layers)
    widened = 2 * FLOAT32 if config.quantization in ("int8", "fp8") else 0
    fetched = round(max(packed_bytes(layer, config, dtype) for layer in layers)) if config.offload else 0
    unpacking = largest * (dtype.itemsize + widened) + fetched
    return Packing(before - (0 if config.offload else now), unpacking, now if config.offload else 0)


def packed_bytes(layer: nn.Linear, config: ModelConfig, dtype: torch.dtype) -> float:
    """Count the bytes of a packed weight with its scales."""
    num, rows = layer.weight.numel(), layer.weight.shape[0]
    match config.quantization:
        case "none":
            return num * dtype.itemsize
        case "nf4":
            scale = 1 + FLOAT32 / SCALE_BLOCK if config.double_quantization else FLOAT32
            return num / 2 + num / NF4_BLOCK * scale
        case _:
            return num + FLOAT32 * rows
