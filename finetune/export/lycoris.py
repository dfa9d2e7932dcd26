"""LyCORIS' single-file layout of LoHa, LoKr and whole weight differences: written, and read by its published formulas.

ComfyUI, A1111 and Forge read all three. Reading uses nothing of the code that trained.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from finetune.export.single_file import Dtype, narrowed, single_file_name, split_name, write_single_file
from finetune.models.base import ModelFamily, Network

KEY = re.compile(r"(.+)\.((?:hada_w|lokr_w)[12](?:_[ab])?)\.default")


def save_lycoris(
    family: ModelFamily,
    denoiser: Any,
    state: Mapping[str, Tensor],
    scales: Mapping[str, float],
    *,
    metadata: Mapping[str, str],
    dtype: Dtype,
    path: Path,
) -> Path:
    """Writes a trained state of LoHa or LoKr layers as `NAME.hada_w1_a`, `NAME.lokr_w1`, ... and `NAME.alpha`.

    LoKr's scale is multiplied into w1 and alpha is the rank: readers leave alpha aside where both factors are whole.
    """
    tensors: dict[str, Tensor] = {}
    for key, weight in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"export: {key} is no LoHa or LoKr weight.")
        if not bool(weight.isfinite().all()):
            raise ValueError(f"export: {key} holds values that are not finite. Export an earlier checkpoint.")
        layer, kind = match.groups()
        name = single_file_name(family, denoiser, *split_name(layer))
        if f"{name}.{kind}" in tensors:
            raise ValueError(f"export: two adapted layers are both called {name} in the file; see lora.targets.")
        tensors[f"{name}.{kind}"] = narrowed(weight * scales[layer] if kind == "lokr_w1" else weight, dtype, name)
        if kind == "hada_w1_b":
            tensors[f"{name}.alpha"] = torch.tensor(float(scales[layer] * weight.shape[0]))
        elif kind in ("lokr_w2", "lokr_w2_b"):
            tensors[f"{name}.alpha"] = torch.tensor(float(weight.shape[0]) if kind == "lokr_w2_b" else 1.0)
    return write_single_file(tensors, metadata, path)


def save_differences(
    family: ModelFamily,
    denoiser: Any,
    differences: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str],
    dtype: Dtype,
    path: Path,
) -> Path:
    """Writes by how much each weight changed as `NAME.diff` (LyCORIS' algorithm "full")."""
    tensors: dict[str, Tensor] = {}
    for layer, difference in differences.items():
        name = single_file_name(family, denoiser, *split_name(layer))
        if f"{name}.diff" in tensors:
            raise ValueError(f"export: two adapted layers are both called {name} in the file; see lora.targets.")
        tensors[f"{name}.diff"] = narrowed(difference, dtype, name)
    return write_single_file(tensors, metadata, path)


@torch.no_grad()
def apply_lycoris(family: ModelFamily, network: Network, path: Path) -> set[str]:
    """Adds what the file says to the network's weights; returns the names of the layers."""
    layers = {
        single_file_name(family, network.denoiser, *split_name(name)): (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in safetensors.torch.load_file(path).items():
        name, _, kind = key.partition(".")
        found.setdefault(name, {})[kind] = value.float()
    for name, tensors in found.items():
        weight = layers[name][1].weight
        weight += weight_change(tensors).reshape(weight.shape)
    return {layers[name][0] for name in found}


def weight_change(tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns the change of one layer's weight, as a matrix or in its own shape.

    LoHa: alpha / r (w1_a w1_b) * (w2_a w2_b), elementwise (FedPara, arXiv 2108.06098, proposition 1; LyCORIS, arXiv
    2309.14859, section 3.2). LoKr: w1 (x) w2, the Kronecker product, with w2 = alpha / r w2_a w2_b where it is split
    (section 3.2 there). Whole differences are the change itself.
    """
    match tensors:
        case {"diff": difference}:
            return difference
        case {"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b, "alpha": alpha}:
            return alpha / w1_b.shape[0] * (w1_a @ w1_b) * (w2_a @ w2_b)
        case {"lokr_w1": w1, "lokr_w2": w2}:
            return torch.kron(w1, w2.flatten(1))
        case {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": alpha}:
            return torch.kron(w1, alpha / w2_b.shape[0] * (w2_a @ w2_b))
    raise ValueError(f"export: no known kind of layer has {sorted(tensors)}.")
