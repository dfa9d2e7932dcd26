"""LyCORIS' single files of LoHa, LoKr and weight differences.

LoRA is read too, for files that diffusers reads only in part. ComfyUI, A1111 and Forge read all three kinds. Reading
follows the published formulas and shares no code with training.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from finetune.export.fused import Places, block_diagonal, file_layers, is_unjoined, share, stacked
from finetune.export.single_file import Dtype, cast_in_range, write_single_file
from finetune.models.family import ModelFamily, Network
from finetune.models.interfaces import Denoiser

KEY = re.compile(r"(.+)\.((?:hada_w|lokr_w)[12](?:_[ab])?)\.default")


def save_lycoris(
    family: ModelFamily,
    denoiser: Denoiser,
    state: Mapping[str, Tensor],
    scales: Mapping[str, float],
    *,
    metadata: Mapping[str, str],
    dtype: Dtype,
    path: Path,
) -> Path:
    """Write LoHa or LoKr layers as `NAME.hada_w1_a`, `NAME.lokr_w1`, `NAME.alpha`, ...

    LoKr's scale is multiplied into w1 and alpha is the rank, because readers ignore alpha where both factors are whole.
    Layers that are one in the file are joined: LoHa's factors like those of LoRA, LoKr as whole differences, since
    stacked Kronecker products are not a Kronecker product.
    """
    layers = lycoris_layers(state, scales)
    tensors: dict[str, Tensor] = {}
    for name, places in file_layers(family, denoiser, layers).items():
        chosen = [layers[layer] for layer in places]
        for kind, weight in (chosen[0] if is_unjoined(places) else joined(places, chosen)).items():
            tensors[f"{name}.{kind}"] = weight if kind == "alpha" else cast_in_range(weight, dtype, name)
    return write_single_file(tensors, metadata, path)


def lycoris_layers(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors and the alpha of each layer. Raises ValueError for other weights than those
    of LoHa and LoKr, and where one is not finite."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, weight in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"export: {key} is not a LoHa or LoKr weight.")
        if not bool(weight.isfinite().all()):
            raise ValueError(f"export: {key} holds values that are not finite. Export an earlier checkpoint.")
        layer, kind = match.groups()
        own = layers.setdefault(layer, {})
        own[kind] = weight * scales[layer] if kind == "lokr_w1" else weight
        if kind == "hada_w1_b":
            own["alpha"] = torch.tensor(float(scales[layer] * weight.shape[0]))
        elif kind in ("lokr_w2", "lokr_w2_b"):
            own["alpha"] = torch.tensor(float(weight.shape[0]) if kind == "lokr_w2_b" else 1.0)
    return layers


def joined(places: Places, layers: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join layers that are one in the file. Stacked LoHa products are multiplied row by row, as each was."""
    if any("hada_w1_a" not in layer for layer in layers):
        return {"diff": stacked(places, dict(zip(places, map(weight_change, layers), strict=True)))}
    scales = [layer["alpha"] / layer["hada_w1_b"].shape[0] for layer in layers]
    right = {f"hada_w{n}_b": torch.cat([layer[f"hada_w{n}_b"] for layer in layers]) for n in (1, 2)}
    return right | {
        "hada_w1_a": block_diagonal(
            places, [layer["hada_w1_a"] * scale for layer, scale in zip(layers, scales, strict=True)]
        ),
        "hada_w2_a": block_diagonal(places, [layer["hada_w2_a"] for layer in layers]),
        "alpha": torch.tensor(float(len(right["hada_w1_b"]))),
    }


def save_differences(
    family: ModelFamily,
    denoiser: Denoiser,
    differences: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str],
    dtype: Dtype,
    path: Path,
) -> Path:
    """Write the change of each weight as `NAME.diff`. This is LyCORIS' algorithm "full"."""
    tensors: dict[str, Tensor] = {}
    for name, places in file_layers(family, denoiser, differences).items():
        tensors[f"{name}.diff"] = cast_in_range(stacked(places, differences), dtype, name)
    return write_single_file(tensors, metadata, path)


@torch.no_grad()
def apply_lycoris(family: ModelFamily, network: Network, path: Path) -> set[str]:
    """Add the file's changes to the network's weights; return the layers' names."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    places = file_layers(family, network.denoiser, layers)
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in safetensors.torch.load_file(path).items():
        name, _, kind = key.partition(".")
        found.setdefault(name, {})[kind] = value.float()
    for name, tensors in found.items():
        change = weight_change(tensors)
        for layer, place in places[name].items():
            weight = layers[layer].weight
            weight += share(place, change).reshape(weight.shape)
    return {layer for name in found for layer in places[name]}


def weight_change(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a weight's change, as a matrix or in its shape.

    LoHa: alpha / r (w1_a w1_b) * (w2_a w2_b), elementwise (FedPara, arXiv 2108.06098, proposition 1; LyCORIS, arXiv
    2309.14859, section 3.2). LoKr: w1 (x) w2, the Kronecker product, with w2 = alpha / r w2_a w2_b where it is split
    (section 3.2 there). Whole differences are the change itself. LoRA: alpha / r up down.
    """
    match tensors:
        case {"diff": difference}:
            return difference
        case {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}:
            return alpha / down.shape[0] * (up.flatten(1) @ down.flatten(1))
        case {"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b, "alpha": alpha}:
            return alpha / w1_b.shape[0] * (w1_a @ w1_b) * (w2_a @ w2_b)
        case {"lokr_w1": w1, "lokr_w2": w2}:
            return torch.kron(w1, w2.flatten(1))
        case {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": alpha}:
            return torch.kron(w1, alpha / w2_b.shape[0] * (w2_a @ w2_b))
    raise ValueError(f"export: no known kind of layer has {sorted(tensors)}.")
