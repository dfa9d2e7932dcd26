"""Files of adapters in the layouts of sd-scripts and LyCORIS."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from finetune.export.fused import Places, file_layers, share
from finetune.export.single_file import split_name
from finetune.models.family import ModelFamily, Network, SingleFileLayer
from finetune.plurals import first_few, plural
from finetune.sampling.adapter_pieces import note_name, piece_of
from finetune.sampling.other_files import kind_or_base, other_kind, why_unreadable
from finetune.sampling.weight_changes import change_of

KINDS = {f"{name}.weight" for name in ("lora_up", "lora_down", "lora_mid")} | {"alpha", "scalar", "dora_scale"}
KINDS |= {f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")} | {"diff", "diff_b"}
KINDS |= {f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}
"""Ends of the names of a layer's tensors that are understood."""
ANY_PREFIX = "lycoris"
"""What LyCORIS' own wrapper writes before names."""
STARTS = {
    "unet.": "diffusers",
    "transformer.": "diffusers",
    "text_encoder.": "diffusers",
    "text_encoder_2.": "diffusers",
    "text_encoder_3.": "diffusers",
    "base_model.model.": "peft",
    "diffusion_model.": "ComfyUI",
    "text_encoders.": "ComfyUI",
}
"""Programs whose names begin so."""


@dataclass(frozen=True)
class Change:
    """One layer of a file, for a layer of the model."""

    pieces: Mapping[str, Tensor]
    place: SingleFileLayer


def file_keys(path: Path) -> set[str]:
    """Return the names of a file's tensors. Raises ValueError for a file that is not readable."""
    return file_header(path)[0]


def file_header(path: Path) -> tuple[set[str], dict[str, str]]:
    """Return the names of a file's tensors and its metadata. Raises ValueError for a file that is not readable."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return set(file.keys()), file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        why = why_unreadable(path, error)
        raise ValueError(f"lora: {path} is not a readable safetensors file ({why}). Use another file.") from error


def file_changes(
    family: ModelFamily, network: Network, layers: Mapping[str, nn.Linear | nn.Conv2d], path: Path
) -> dict[str, Change]:
    """Read a file in the layout of sd-scripts or LyCORIS. Layers that the model lacks are a ValueError."""
    pieces: dict[str, dict[str, Tensor]] = {}
    for key, value in safetensors.torch.load_file(path).items():
        name, _, kind = key.partition(".")
        pieces.setdefault(name, {})[kind] = value
    places = known_layers(family, network, layers)
    if unknown := sorted(set(pieces) - set(places)):
        raise ValueError(
            f"lora: {path.name} has {plural(len(unknown), 'layer')} of {len(pieces)} that {family.title} lacks: "
            f"{first_few(unknown)}. {kind_or_base(f'{name}.{kind}' for name in unknown for kind in pieces[name])}"
        )
    found: dict[str, Change] = {}
    names: dict[str, str] = {}
    for name, own in pieces.items():
        for layer, place in places[name].items():
            note_name(path, names, layer, name)
            check_pieces(path, name, own, layers[layer], place)
            if "diff_b" in own:
                found[f"{layer}.bias"] = Change({"diff": own["diff_b"]}, place)
            if set(own) != {"diff_b"}:
                found[f"{layer}.weight"] = Change(own, place)
    return found


def check_pieces(path: Path, name: str, pieces: Mapping[str, Tensor], layer: nn.Module, place: SingleFileLayer) -> None:
    """Raise ValueError for a layer of unknown kind or another size."""
    parts = [("weight", pieces)] if set(pieces) != {"diff_b"} else []
    parts += [("bias", {"diff": pieces["diff_b"]})] if "diff_b" in pieces else []
    for kind, own in parts:
        expected = 0 if kind == "bias" and layer.bias is None else layer.get_parameter(kind).numel()
        try:
            if unknown := sorted(set(own) - KINDS):
                kind = other_kind(f"{name}.{piece}" for piece in unknown)
                what = "Use another file." if kind is None else f"It is {kind[0]}. {kind[1]}"
                raise ValueError(f"unknown tensors {', '.join(unknown)}. {what}")
            num = share(place, change_of(own)).numel()
        except (ValueError, KeyError, RuntimeError, IndexError) as error:
            raise ValueError(f"lora: {path.name}: {name} is not understood: {error}") from error
        if num != expected:
            raise ValueError(
                f"lora: {path.name}: {name} changes {num:,} numbers of the {kind}, but that layer of the base model "
                f"has {expected:,}. Is it made for another base model?"
            )


def known_layers(family: ModelFamily, network: Network, layers: Mapping[str, nn.Module]) -> dict[str, Places]:
    """Return the layers by the names that files have for them. Beside the published names these are
    diffusers' own with underscores."""
    found = file_layers(family, network.denoiser, layers)
    for name in layers:
        part, module = split_name(name)
        if part == "denoiser":
            for prefix in (family.kohya_prefixes["denoiser"], ANY_PREFIX):
                found.setdefault(f"{prefix}_{module.replace('.', '_')}", {name: SingleFileLayer(module)})
    return found


def refuse_two_layouts(path: Path, keys: Iterable[str], own: tuple[str, ...]) -> None:
    """Raise ValueError for names of several layouts, of which diffusers reads one. `own` are starts of sd-scripts."""
    first: dict[str, str] = {}
    for key in sorted(key for key in keys if piece_of(key) is not None):
        start = next((start for start in STARTS if key.startswith(start)), "")
        layout = "sd-scripts" if key.startswith(own) else STARTS.get(start, "")
        if layout:
            first.setdefault(layout, key)
    if len(first) > 1:
        named = " and ".join(f"{key} (as {layout} writes it)" for layout, key in first.items())
        raise ValueError(
            f"lora: {path.name} mixes layouts, of which one would be read: {named}. Write it in one: finetune lora "
            f"convert {path} --model.source BASE --to kohya --output NEW.safetensors."
        )


def refuse_other_parts(path: Path, keys: Iterable[str], parts: set[str], title: str) -> None:
    """Raise ValueError for diffusers' names of parts that the model lacks. They would be ignored."""
    known = {start.removesuffix(".") for start, layout in STARTS.items() if layout == "diffusers"}
    others = sorted(key for key in keys if piece_of(key) is not None and key.partition(".")[0] in known - parts)
    if others:
        raise ValueError(
            f"lora: {path.name} has {plural(len(others), 'tensor')} of parts that {title} lacks: {first_few(others)}. "
            "Is it made for another base model?"
        )
