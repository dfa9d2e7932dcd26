"""LoRA files: diffusers' layout, and the single-file layout that sd-scripts, ComfyUI, A1111 and Forge read.

Both hold the same update; they differ in names and in where its scale stands. Neither mixes the two, which diffusers
0.42 would load in part without a word (it converts old names only if the first key of the file has one).
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from finetune.disk import put_in_place, unfinished
from finetune.export.metadata import with_hashes
from finetune.models.base import Components, ModelFamily

logger = logging.getLogger(__name__)

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""diffusers takes the file of this name where a folder holds several: `load_lora_weights(FOLDER)` is enough."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

SD_SCRIPTS_BLOCKS = {"attentions", "resnets", "downsamplers", "upsamplers"}
"""Where sd-scripts looks for adapters in a U-Net (LoRANetwork in its networks/lora.py); it ignores those elsewhere."""

KEY = re.compile(r"(denoiser|text_encoders\.\d+)\.(.+)\.lora_(A|B)\.default\.weight")


@dataclass(frozen=True)
class LoRALayer:
    """One adapted layer; its weight changes by alpha / rank * up @ down."""

    part: str
    """denoiser or text_encoders.0, text_encoders.1, ..."""
    module: str
    """Name of the layer within its part, with dots."""
    down: Tensor
    """[rank inputs], or [rank inputs height width] for a convolution."""
    up: Tensor
    """[outputs rank], or [outputs rank 1 1]."""


def lora_layers(state: Mapping[str, Tensor]) -> list[LoRALayer]:
    """Returns the layers of a trained state; refuses keys that are no LoRA weights, lack a pair or are not finite."""
    pairs: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, weight in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"export: {key} is no LoRA weight, expected PART.LAYER.lora_A.default.weight or ...lora_B..."
            )
        if not bool(weight.isfinite().all()):
            raise ValueError(f"export: {key} holds values that are not finite. Export an earlier checkpoint.")
        part, module, letter = match.groups()
        pairs.setdefault((part, module), {})[letter] = weight.detach().cpu()
    for (part, module), pair in pairs.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {f"lora_{letter}": tuple(weight.shape) for letter, weight in pair.items()}
            raise ValueError(f"export: {part}.{module} has {shapes}, expected lora_A [rank ...] and lora_B [... rank].")
    if not pairs:
        raise ValueError("export: the trained state holds no LoRA weights.")
    return [LoRALayer(part, module, pair["A"], pair["B"]) for (part, module), pair in pairs.items()]


def save_diffusers_lora(
    family: ModelFamily, components: Components, state: Mapping[str, Tensor], *, rank: int, alpha: float, folder: Path
) -> Path:
    """Writes FOLDER/pytorch_lora_weights.safetensors for `pipeline.load_lora_weights(FOLDER)` and returns its path.

    Weights are float32 with the scale alpha / rank multiplied into lora_B, and the adapter's metadata say alpha = rank:
    diffusers before 0.34 reads no metadata and takes just that. The metadata hold only what a loader needs, since PEFT
    refuses fields that its version does not know; diffusers 0.34 to 0.38 ask for both patterns, empty or not.
    """
    pipeline = family.pipeline(components)
    names = pipeline_names(pipeline, components)
    layers = lora_layers(state)
    arguments: dict[str, Any] = {}
    for part in dict.fromkeys(layer.part for layer in layers):
        chosen = [layer for layer in layers if layer.part == part]
        weights: dict[str, Tensor] = {}
        for layer in chosen:
            weights[f"{published_name(layer)}.lora_A.weight"] = layer.down.float().contiguous()
            weights[f"{published_name(layer)}.lora_B.weight"] = (layer.up.float() * (alpha / rank)).contiguous()
        arguments[f"{names[part]}_lora_layers"] = weights
        arguments[f"{names[part]}_lora_adapter_metadata"] = {
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": {},
            "alpha_pattern": {},
            "target_modules": sorted(layer.module for layer in chosen),
        }
    assert all(layer.down.shape[0] == rank for layer in layers), "rank contradicts the trained state"
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


def save_kohya_lora(
    family: ModelFamily,
    state: Mapping[str, Tensor],
    *,
    alpha: float,
    metadata: Mapping[str, str],
    dtype: Literal["fp16", "bf16", "fp32"],
    path: Path,
) -> Path:
    """Writes one file with `lora_unet_....lora_down.weight`, `.lora_up.weight`, `.alpha` per layer; returns its path.

    Alpha stays float32 whatever `dtype`, since rounding it would scale the whole adapter. The hashes of the tensors are
    added to the metadata. ComfyUI, A1111 and Forge take the file as it is; in diffusers it is
    `load_lora_weights(FOLDER, weight_name=NAME)`. Layers that sd-scripts itself does not read are named in a warning.
    """
    layers = lora_layers(state)
    if path.name == DIFFUSERS_FILE:
        raise ValueError(f"output.name: {path.stem} is the name of the diffusers file; choose another one.")
    assert metadata.get("ss_network_dim", str(layers[0].down.shape[0])) == str(layers[0].down.shape[0])
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        name = f"{family.kohya_prefixes[layer.part]}_{published_name(layer).replace('.', '_')}"
        if f"{name}.alpha" in tensors:
            raise ValueError(
                f"export: two adapted layers are both called {name} in the single-file layout; see lora.targets."
            )
        tensors[f"{name}.lora_down.weight"] = narrowed(layer.down, dtype, name)
        tensors[f"{name}.lora_up.weight"] = narrowed(layer.up, dtype, name)
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    if ignored := ignored_by_sd_scripts(layers):
        logger.warning(
            "export: sd-scripts reads all of %s but %s; the other programs read these too.",
            path.name,
            ", ".join(ignored),
        )
    data = safetensors.torch.save(tensors, with_hashes(metadata, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, len(data), error) from error
    return put_in_place(temporary, path)


def published_name(layer: LoRALayer) -> str:
    """Returns the layer's name as files spell it: CLIP's stand under `text_model`, a level that transformers 5 dropped.

    Other tools look for that level, and diffusers takes it away where the text encoder has none.
    """
    inside_clip = layer.part.startswith("text_encoders.") and layer.module.startswith("encoder.layers.")
    return f"text_model.{layer.module}" if inside_clip else layer.module


def ignored_by_sd_scripts(layers: list[LoRALayer]) -> list[str]:
    """Returns the denoiser's layers outside SD_SCRIPTS_BLOCKS, e.g. conv_in and time_embedding.linear_1."""
    names = [layer.module for layer in layers if layer.part == "denoiser"]
    return sorted(name for name in names if SD_SCRIPTS_BLOCKS.isdisjoint(name.split(".")))


def pipeline_names(pipeline: Any, components: Components) -> dict[str, str]:
    """Returns the name of each part in diffusers, e.g. {"denoiser": "unet", "text_encoders.0": "text_encoder"}."""
    names = {id(component): name for name, component in pipeline.components.items()}
    parts = {"denoiser": components.denoiser}
    parts |= {f"text_encoders.{number}": encoder for number, encoder in enumerate(components.text_encoders)}
    return {part: names[id(component)] for part, component in parts.items()}


def narrowed(weight: Tensor, dtype: Literal["fp16", "bf16", "fp32"], name: str) -> Tensor:
    """Returns the weight in the file's dtype; one too large for it is refused."""
    result = weight.to(DTYPES[dtype]).contiguous()
    if not bool(result.isfinite().all()):
        largest = float(weight.abs().max())
        raise ValueError(
            f"output.dtype: {name} reaches {largest:.3g}, too large for {dtype}. Use --output.dtype bf16 or fp32."
        )
    return result


def not_written(path: Path, num_bytes: int, error: Exception) -> OSError:
    """Returns the failure as an OSError that names the path, the bytes needed and the bytes free."""
    free = shutil.disk_usage(path.parent).free
    number = error.errno if isinstance(error, OSError) and error.errno is not None else errno.EIO
    if "No space left" in str(error) or free < num_bytes:
        number = errno.ENOSPC
    return OSError(
        number,
        f"the export {path} could not be written: {os.strerror(number)} ({errno.errorcode[number]}); it needs about "
        f"{num_bytes:,} bytes and {free:,} are free. The checkpoints are untouched: make room and run the same command "
        "again.",
    )
