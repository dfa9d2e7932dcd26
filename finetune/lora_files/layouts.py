"""LoRA layers written in every layout, without a change of their numbers."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from peft import LoraConfig
from torch import Tensor

from finetune.export.fused import Places
from finetune.export.lora import LoRALayer, joined, joined_layer
from finetune.export.peft_folder import config_text
from finetune.export.single_file import cast_in_range, published_name, split_name, write_single_file, write_tensors
from finetune.files import unfinished
from finetune.json_text import parse_json
from finetune.lora_files.layers import PEFT_CONFIG, PEFT_WEIGHTS
from finetune.lora_files.options import Keep, Layout
from finetune.models.family import Network, SingleFileLayer
from finetune.plurals import plural
from finetune.replaced_folder import replace_folder
from finetune.sampling.adapter_notes import DIFFUSERS_METADATA, require_numbers

SCALES = "lora_scales"
"""Our note of scales that were multiplied into weights, by layer, so that they can be taken out again."""
HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def write_layout(
    network: Network,
    layers: Mapping[str, LoRALayer],
    layout: Layout,
    *,
    dtype: Keep,
    metadata: Mapping[str, str],
    path: Path,
) -> list[str]:
    """Write layers by name in `Network`; return what the user must know."""
    chosen = {name: in_dtype(name, layer, dtype) for name, layer in layers.items()}
    kept = {key: value for key, value in metadata.items() if key not in (DIFFUSERS_METADATA, SCALES, *HASHES)}
    match layout:
        case "kohya":
            named = joined(network.family, network.denoiser, list(chosen.values()))
            write_single_file(tensors_of(named, "lora_down", "lora_up"), kept, path)
        case "original":
            places = original_places(network, list(chosen))
            named = {name: joined_layer(own, [chosen[layer] for layer in own]) for name, own in places.items()}
            write_tensors(tensors_of(named, "lora_A", "lora_B"), kept, path)
        case "diffusers":
            return write_diffusers(network, chosen, kept, path)
        case "peft":
            write_peft(network, chosen, kept, path)
    return []


def in_dtype(name: str, layer: LoRALayer, dtype: Keep) -> LoRALayer:
    """Return the layer in the file's number format."""
    if dtype == "same":
        return layer
    down, up = (cast_in_range(part, dtype, name, "dtype") for part in (layer.down, layer.up))
    return replace(layer, down=down, up=up)


def tensors_of(layers: Mapping[str, LoRALayer], down: str, up: str) -> dict[str, Tensor]:
    """Return a file's tensors, with an alpha for each layer."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        found |= {f"{name}.{down}.weight": layer.down, f"{name}.{up}.weight": layer.up}
        found[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return found


def original_places(network: Network, names: Sequence[str]) -> dict[str, Places]:
    """Return the layers by their names in the original model."""
    found: dict[str, Places] = {}
    encoders = network.family.original_text_encoders(network.trained_text_encoders)
    for name in names:
        part, module = split_name(name)
        if part == "denoiser":
            place = network.family.original_layer(network.denoiser, module)
            start = "diffusion_model"
        else:
            place = SingleFileLayer(published_name(part, module))
            start = f"text_encoders.{encoders[int(part.rpartition('.')[2])]}.transformer"
        found.setdefault(f"{start}.{place.name}", {})[name] = place
    return {name: dict(sorted(own.items(), key=lambda item: item[1].place)) for name, own in found.items()}


def write_diffusers(
    network: Network, layers: Mapping[str, LoRALayer], metadata: Mapping[str, str], path: Path
) -> list[str]:
    """Write diffusers' layout. Scales are multiplied into lora_B where that can be undone exactly, for programs that
    read no metadata. Others are in the metadata alone."""
    tensors: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    written: dict[str, LoRALayer] = {}
    for name, layer in layers.items():
        baked = (layer.up.float() * layer.scale).to(layer.up.dtype)
        if torch.equal((baked.double() / layer.scale).to(layer.up.dtype), layer.up) and exact(baked, layer):
            scales |= {} if layer.scale == 1 else {name: layer.scale}
            layer = replace(layer, up=baked, scale=1.0)
        written[name] = layer
        part, module = split_name(name)
        start = f"{diffusers_part(network, part)}.{published_name(part, module)}"
        tensors |= {f"{start}.lora_A.weight": layer.down, f"{start}.lora_B.weight": layer.up}
    noted = {"format": "pt", DIFFUSERS_METADATA: json.dumps(adapter_notes(network, written), indent=2, sort_keys=True)}
    write_tensors(tensors, {**metadata, **noted, **({SCALES: json.dumps(scales)} if scales else {})}, path)
    left = [layer.scale for layer in written.values() if layer.scale != 1]
    if not left:
        return []
    return [
        f"{path.name}: the scale {left[0]:g} of {plural(len(left), 'layer')} cannot be multiplied into the weights "
        "without rounding, so it is in the metadata alone, which diffusers reads since 0.34. Other programs need --to "
        "kohya."
    ]


def exact(baked: Tensor, layer: LoRALayer) -> bool:
    """Check that the product needed no rounding."""
    return torch.equal(baked.double(), layer.up.double() * layer.scale)


def adapter_notes(network: Network, layers: Mapping[str, LoRALayer]) -> dict[str, object]:
    """Return the metadata from which diffusers builds layers, by part."""
    found: dict[str, object] = {}
    for part in dict.fromkeys(layer.part for layer in layers.values()):
        config = peft_fields([layer for layer in layers.values() if layer.part == part])
        found |= {f"{diffusers_part(network, part)}.{key}": value for key, value in config.items()}
    return found


def peft_fields(layers: Sequence[LoRALayer]) -> dict[str, object]:
    """Return ranks and alphas as peft has them. Layers that differ from the first are patterns."""
    first = layers[0]
    return {
        "r": first.rank,
        "lora_alpha": plain(first.alpha),
        "rank_pattern": {f"^{layer.module}": layer.rank for layer in layers if layer.rank != first.rank},
        "alpha_pattern": {f"^{layer.module}": plain(layer.alpha) for layer in layers if layer.alpha != first.alpha},
        "target_modules": sorted(layer.module for layer in layers),
    }


def plain(number: float) -> int | float:
    """Write whole numbers as such, as older loaders expect them."""
    return int(number) if number == int(number) else number


def write_peft(network: Network, layers: Mapping[str, LoRALayer], metadata: Mapping[str, str], folder: Path) -> None:
    """Write a folder per part, each with weights and config."""
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    for part in dict.fromkeys(layer.part for layer in layers.values()):
        own = [layer for layer in layers.values() if layer.part == part]
        fields = peft_fields(own)
        for name in ("rank_pattern", "alpha_pattern"):
            patterns: dict[str, float] = fields[name]  # pyright: ignore[reportAssignmentType]
            fields[name] = {f"^{re.escape(key[1:])}": value for key, value in patterns.items()}
        target = temporary / diffusers_part(network, part)
        target.mkdir(parents=True)
        tensors = {f"base_model.model.{layer.module}.lora_A.weight": layer.down.contiguous() for layer in own}
        tensors |= {f"base_model.model.{layer.module}.lora_B.weight": layer.up.contiguous() for layer in own}
        config = LoraConfig(**fields)  # pyright: ignore[reportArgumentType]
        (target / PEFT_CONFIG).write_text(config_text(config), encoding="utf-8")
        safetensors.torch.save_file(tensors, target / PEFT_WEIGHTS, {**metadata, "format": "pt"})
    replace_folder(temporary, folder)


def restored(layers: Mapping[str, LoRALayer], metadata: Mapping[str, str]) -> dict[str, LoRALayer]:
    """Take scales out of the weights that `write_diffusers` multiplied in."""
    try:
        scales: dict[str, float] = parse_json(metadata.get(SCALES, "{}"))
    except ValueError as error:
        raise ValueError(f"metadata: {SCALES} is not JSON ({error}). Use another file.") from error
    require_numbers(SCALES, "scales", scales)
    found = dict(layers)
    for name in scales.keys() & layers.keys():
        layer = layers[name]
        found[name] = replace(layer, up=(layer.up.double() / scales[name]).to(layer.up.dtype), scale=scales[name])
    return found


def diffusers_part(network: Network, part: str) -> str:
    """Return the part's name in diffusers."""
    if part == "denoiser":
        return "unet" if "UNet" in type(network.denoiser).__name__ else "transformer"
    number = int(part.rpartition(".")[2])
    return "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
