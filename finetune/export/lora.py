"""LoRA files in diffusers' layout and as single files.

sd-scripts, ComfyUI, A1111 and Forge read the single files. Both layouts have the same update; they differ in names and
in the place of its scale. They are never mixed in a file, which diffusers 0.42 would load only in part, without a
warning (it converts old names only if the first key of the file is an old one).
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from finetune.export.fused import Places, block_diagonal, file_layers, is_unjoined, stacked
from finetune.export.single_file import (
    DIFFUSERS_FILE,
    Dtype,
    cast_in_range,
    not_written,
    published_name,
    write_single_file,
)
from finetune.files import put_in_place, unfinished
from finetune.models.family import Components, ModelFamily
from finetune.models.interfaces import Denoiser

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

logger = logging.getLogger(__name__)

MAGNITUDE_KEYS = {"denoiser": "lora_magnitude_vector", "text_encoders": "lora_magnitude_vector.weight"}
"""peft's loader adds the end of the name; that of transformers 5, which loads text encoders, does not."""

KEY = re.compile(r"(denoiser|text_encoders\.\d+)\.(.+)\.lora_(A|B|magnitude_vector)\.default\.weight")


@dataclass(frozen=True)
class LoRALayer:
    """One adapted layer. Its weight changes by alpha / rank * up @ down."""

    part: str
    """denoiser or text_encoders.0, text_encoders.1, ..."""
    module: str
    """Name of the layer within its part, with dots."""
    down: Tensor
    """[rank inputs], or [rank inputs height width] for a convolution."""
    up: Tensor
    """[outputs rank], or [outputs rank 1 1]."""
    scale: float
    """alpha / rank."""
    magnitude: Tensor | None = None
    """DoRA's length of each row of the weight: [outputs], or [1 outputs 1 1]."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def alpha(self) -> float:
        return float(self.scale * self.rank)


def lora_layers(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> list[LoRALayer]:
    """Return the layers of a trained state. Keys that are not LoRA weights, lack a pair or are not finite are
    refused."""
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, weight in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"export: {key} is not a LoRA weight, expected PART.LAYER.lora_A.default.weight or ...lora_B..."
            )
        if not bool(weight.isfinite().all()):
            raise ValueError(f"export: {key} holds values that are not finite. Export an earlier checkpoint.")
        part, module, letter = match.groups()
        found.setdefault((part, module), {})[letter] = weight.detach().cpu()
    for (part, module), own in found.items():
        if not {"A", "B"} <= set(own) or own["A"].shape[0] != own["B"].shape[1]:
            shapes = {f"lora_{letter}": tuple(weight.shape) for letter, weight in own.items()}
            raise ValueError(f"export: {part}.{module} has {shapes}, expected lora_A [rank ...] and lora_B [... rank].")
    if not found:
        raise ValueError("export: the trained state has no LoRA weights.")
    return [
        LoRALayer(part, module, own["A"], own["B"], scales[f"{part}.{module}"], own.get("magnitude_vector"))
        for (part, module), own in found.items()
    ]


def relative_to_base(layers: Sequence[LoRALayer], start: Sequence[LoRALayer]) -> list[LoRALayer]:
    """Make layers relative to W from layers relative to its residual. The residual is W - scale * up0 @ down0. `start`
    has up0 and down0, and the result has twice the rank: W + scale * (up @ down - up0 @ down0) (PiSSA, arXiv
    2404.02948, appendix C)."""
    return [
        replace(trained, down=torch.cat([trained.down, first.down]), up=torch.cat([trained.up, -first.up], dim=1))
        for trained, first in zip(layers, start, strict=True)
    ]


def save_diffusers_lora(family: ModelFamily, components: Components, layers: Sequence[LoRALayer], folder: Path) -> Path:
    """Write FOLDER/pytorch_lora_weights.safetensors for `load_lora_weights(FOLDER)`.

    Returns its path. Weights are float32 with the scale multiplied into lora_B, and the adapter's metadata have alpha =
    rank: diffusers before 0.34 reads no metadata and assumes just that. The metadata have only what a loader needs,
    since PEFT refuses fields that its version does not know; diffusers 0.34 to 0.38 require both patterns, empty or
    not.
    """
    pipeline = family.pipeline(components)
    names = pipeline_names(pipeline, components)
    arguments: dict[str, object] = {}
    for part in dict.fromkeys(layer.part for layer in layers):
        chosen = [layer for layer in layers if layer.part == part]
        weights: dict[str, Tensor] = {}
        for layer in chosen:
            name = published_name(part, layer.module)
            weights[f"{name}.lora_A.weight"] = layer.down.float().contiguous()
            weights[f"{name}.lora_B.weight"] = (layer.up.float() * layer.scale).contiguous()
            if layer.magnitude is not None:
                key = MAGNITUDE_KEYS["text_encoders" if part.startswith("text_encoders.") else "denoiser"]
                weights[f"{name}.{key}"] = layer.magnitude.float().contiguous()
        arguments[f"{names[part]}_lora_layers"] = weights
        arguments[f"{names[part]}_lora_adapter_metadata"] = adapter_metadata(chosen)
    path = folder / DIFFUSERS_FILE
    temporary = unfinished(path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        type(pipeline).save_lora_weights(folder, weight_name=temporary.name, safe_serialization=True, **arguments)
    except safetensors.SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, sum(layer.down.numel() + layer.up.numel() for layer in layers) * 4, error) from error
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    return put_in_place(temporary, path)


def adapter_metadata(layers: Sequence[LoRALayer]) -> dict[str, object]:
    """Return the metadata from which diffusers builds a part's layers. Alpha is the rank, for each layer."""
    rank = layers[0].rank
    others = {f"^{layer.module}": layer.rank for layer in layers if layer.rank != rank}
    found: dict[str, object] = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(layer.module for layer in layers),
    }
    return found | ({"use_dora": True} if layers[0].magnitude is not None else {})


def save_kohya_lora(
    family: ModelFamily,
    denoiser: Denoiser,
    layers: Sequence[LoRALayer],
    *,
    metadata: Mapping[str, str],
    dtype: Dtype,
    path: Path,
) -> Path:
    """Write a single file of LoRA; return its path.

    Each layer has `lora_unet_....lora_down.weight`, `.lora_up.weight` and `.alpha`. All layers have one alpha, the most
    frequent; differences from it are multiplied into `lora_up`, because diffusers 0.42 ignores the alphas of single
    attention layers. Layers that are one in the file are joined. Alpha stays float32 for any `dtype`, since rounding it
    would scale the whole adapter. The hashes of the tensors are added to the metadata. ComfyUI, A1111 and Forge read
    the file as it is; diffusers needs `load_lora_weights(FOLDER, weight_name=NAME)`. Layers that sd-scripts itself does
    not read are named in a warning.
    """
    assert all(layer.magnitude is None for layer in layers), "programs disagree on dora_scale"
    alpha = single_alpha(layers)
    tensors: dict[str, Tensor] = {}
    for name, layer in joined(family, denoiser, layers).items():
        tensors[f"{name}.lora_down.weight"] = cast_in_range(layer.down, dtype, name)
        tensors[f"{name}.lora_up.weight"] = cast_in_range(layer.up * (layer.alpha / alpha), dtype, name)
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    if ignored := ignored_by_sd_scripts(family, layers):
        logger.warning(
            "export: sd-scripts reads all of %s but %s; the other programs read these too.",
            path.name,
            ", ".join(ignored),
        )
    return write_single_file(tensors, metadata, path)


def joined(family: ModelFamily, denoiser: Denoiser, layers: Sequence[LoRALayer]) -> dict[str, LoRALayer]:
    """Return the layers of the single file by name."""
    by_name = {f"{layer.part}.{layer.module}": layer for layer in layers}
    named = file_layers(family, denoiser, by_name)
    return {name: joined_layer(places, [by_name[own] for own in places]) for name, places in named.items()}


def joined_layer(places: Places, layers: Sequence[LoRALayer]) -> LoRALayer:
    """Join layers that are one in the file. It has the sum of their ranks, or that of a `down` that all have."""
    first = layers[0]
    if is_unjoined(places):
        return first
    is_scaled = any(layer.scale != first.scale for layer in layers)
    ups = [layer.up * layer.scale if is_scaled else layer.up for layer in layers]
    scale = 1.0 if is_scaled else first.scale
    if all(layer.down.shape == first.down.shape and torch.equal(layer.down, first.down) for layer in layers):
        return replace(first, up=stacked(places, dict(zip(places, ups, strict=True))), scale=scale)
    down = torch.cat([layer.down for layer in layers])
    return replace(first, down=down, up=block_diagonal(places, ups), scale=scale)


def single_alpha(layers: Sequence[LoRALayer]) -> float:
    """Return the most frequent alpha."""
    return Counter(layer.alpha for layer in layers).most_common(1)[0][0]


def ignored_by_sd_scripts(family: ModelFamily, layers: Sequence[LoRALayer]) -> list[str]:
    """Return the denoiser's layers outside `sd_scripts_blocks`, e.g. conv_in and time_embedding.linear_1."""
    blocks = set(family.sd_scripts_blocks)
    names = [layer.module for layer in layers if layer.part == "denoiser"]
    return sorted(name for name in names if blocks and blocks.isdisjoint(name.split(".")))


def pipeline_names(pipeline: "DiffusionPipeline", components: Components) -> dict[str, str]:
    """Return the name of each part in diffusers, e.g. {"denoiser": "unet", "text_encoders.0": "text_encoder"}."""
    names = {id(component): name for name, component in pipeline.components.items()}
    parts = {"denoiser": components.denoiser}
    parts |= {f"text_encoders.{number}": encoder for number, encoder in enumerate(components.text_encoders)}
    return {part: names[id(component)] for part, component in parts.items()}
