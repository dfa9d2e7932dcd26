"""Adapters of a loaded model, with strengths that can change between images.

Files in the layouts of sd-scripts and LyCORIS change the weights themselves: base + strength x change. All others are
read by diffusers or peft, whose layers compute beside the weights.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.export.fused import share
from finetune.export.lora import pipeline_names
from finetune.models.family import Components, ModelFamily, Network
from finetune.sampling.adapter_files import (
    ANY_PREFIX,
    Change,
    file_changes,
    file_header,
    file_keys,
    refuse_other_parts,
    refuse_two_layouts,
)
from finetune.sampling.adapter_notes import notes_of
from finetune.sampling.adapter_pieces import piece_of, refuse_malformed
from finetune.sampling.other_files import kind_or_base
from finetune.sampling.weight_changes import change_of, changed_weight, refuse_not_finite


class TunedLayer(BaseTunerLayer):
    """A layer of peft with its scales. For annotations alone: its own class does not declare them."""

    scaling: dict[str, float]


@dataclass(frozen=True)
class Adapter:
    """A file of adapters, loaded."""

    name: str
    """Name of the file."""
    key: str
    """Its name in peft's layers."""
    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])
    """By the name of the weight in `Network`."""
    tuned: Mapping[str, tuple[TunedLayer, float]] = field(default_factory=dict[str, tuple[TunedLayer, float]])
    """peft's layers by name, with their scale at strength 1."""


@dataclass(frozen=True)
class Adapters:
    """All adapters of a model, and the base model's weights below them."""

    adapters: Sequence[Adapter]
    weights: Mapping[str, nn.Parameter]
    """The model's weights that files change."""
    base: Mapping[str, Tensor]
    """Those weights as the base model has them, on the CPU."""
    current: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Strengths of each part of the model at the moment."""


def load_adapters(family: ModelFamily, components: Components, paths: Sequence[Path], warnings: list[str]) -> Adapters:
    """Load files into the model, before their strengths are set. Raises ValueError for a file that does not
    fit. What diffusers says of a file is added to `warnings`."""
    network = Network(family, components.denoiser, components.text_encoders)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    found: list[Adapter] = []
    for number, path in enumerate(paths):
        name = f"adapter_{number}"
        keys = set[str]() if path.is_dir() else file_keys(path)
        for file in sorted(path.glob("**/*.safetensors")) if path.is_dir() else (path,):
            tensors = load_file(file)
            refuse_malformed(file, tensors)
            refuse_not_finite(file, tensors)
        own = tuple(f"{prefix}_" for prefix in (*family.kohya_prefixes.values(), ANY_PREFIX))
        if any(key.startswith(own) for key in keys) and all(key.startswith((*own, "lora_te")) for key in keys):
            found.append(Adapter(path.name, name, changes=file_changes(family, network, layers, path)))
        else:
            tuned = tuned_layers(family, components, network, path, name, warnings)
            found.append(Adapter(path.name, name, tuned=tuned))
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):  # the last one alone would be active
            layer.set_adapter(sorted(layer._get_available_adapters()))
            layer.requires_grad_(False)
    names = {name for adapter in found for name in adapter.changes}
    weights = {name: layers[name.rpartition(".")[0]].get_parameter(name.rpartition(".")[2]) for name in sorted(names)}
    return Adapters(found, weights, {name: weight.detach().clone() for name, weight in weights.items()})


def tuned_layers(
    family: ModelFamily, components: Components, network: Network, path: Path, name: str, warnings: list[str]
) -> dict[str, tuple[TunedLayer, float]]:
    """Load a file with diffusers or peft; return the layers it adapts."""
    keys, metadata = (set[str](), dict[str, str]()) if path.is_dir() else file_header(path)
    notes_of(metadata)
    if not path.is_dir() and not family.reads_lora:
        raise ValueError(f"lora: diffusers reads no LoRA of {family.title}, which {path.name} seems to be. Remove it.")
    refuse_two_layouts(path, keys, tuple(f"{prefix}_" for prefix in (*family.kohya_prefixes.values(), ANY_PREFIX)))
    parts = pipeline_names(family.pipeline(components), components)
    refuse_other_parts(path, keys, set(parts.values()), family.title)
    with said_by_diffusers(path, keys, warnings):
        if path.is_dir():
            for part, own in parts.items():
                if (path / own).is_dir():
                    PeftModel.from_pretrained(network.get_submodule(part), str(path / own), adapter_name=name)
        else:
            try:
                family.pipeline(components).load_lora_weights(
                    str(path.parent), weight_name=path.name, use_safetensors=True, adapter_name=name
                )
            except (ValueError, KeyError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:300]
                what = kind_or_base(keys)
                raise ValueError(f"lora: {path.name} does not load into {family.title}: {reason}. {what}") from error
    found: dict[str, tuple[TunedLayer, float]] = {}
    for layer, module in network.named_modules():
        if isinstance(module, BaseTunerLayer) and name in module._get_available_adapters():
            tuned = cast("TunedLayer", module)
            found[layer] = tuned, float(tuned.scaling[name]) if has_strength(module) else 1.0
    if not found:
        other = (
            f" If not, write it in another layout: finetune lora convert {path} --model.source BASE --to diffusers "
            "--output NEW.safetensors."
        )
        what = f"{kind_or_base(keys)}{other if any(map(piece_of, keys)) else ''}"
        raise ValueError(f"lora: {path.name} adapts no layer of {family.title}. {what}")
    return found


def has_strength(layer: object) -> bool:
    """Recognise layers of peft that scale their change. Those of OFT rotate weights as a whole."""
    return isinstance(layer, LoraLayer | LycorisLayer)


@contextmanager
def said_by_diffusers(path: Path, keys: Collection[str], warnings: list[str]) -> Iterator[None]:
    """Collect what diffusers warns of while it loads a file. A part of the model that the file lacks is not a fault."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            absent = re.search(r"No LoRA keys .* prefix='(\w+)'", text)
            if absent is None or any(key.startswith(f"{absent[1]}.") for key in keys):
                warnings.append(f"lora: {path.name}: {text[:400]}")

    logger, handler = logging.getLogger("diffusers"), Collector(logging.WARNING)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@torch.no_grad()
def set_all_strengths(adapters: Adapters, strengths: Sequence[float]) -> None:
    """Set the adapters' strengths in the whole model."""
    for part in ("denoiser", "text_encoders"):
        set_strengths(adapters, strengths, part)


def set_strengths(adapters: Adapters, strengths: Sequence[float], part: str) -> None:
    """Set the adapters' strengths in one part: denoiser or text_encoders."""
    if adapters.current.get(part) == tuple(strengths):
        return
    for adapter, strength in zip(adapters.adapters, strengths, strict=True):
        for name, (layer, scale) in adapter.tuned.items():
            if has_strength(layer) and name.startswith(f"{part}."):
                layer.scaling[adapter.key] = scale * strength
            elif not has_strength(layer) and strength != 1:
                raise ValueError(
                    f"lora: {adapter.name} is of a kind without a strength, expected 1, got {strength:g}. Use the "
                    "safetensors file of the same export."
                )
    for name, weight in adapters.weights.items():
        if name.startswith(f"{part}."):
            pairs = zip(adapters.adapters, strengths, strict=True)
            changes = [(adapter.changes[name], strength) for adapter, strength in pairs if name in adapter.changes]
            weight.copy_(with_changes(adapters.base[name], changes))
    adapters.current[part] = tuple(strengths)


def with_changes(base: Tensor, changes: Sequence[tuple[Change, float]]) -> Tensor:
    """Return a weight with all changes, each of its strength."""
    weight = base.float()
    for change, strength in changes:
        if strength != 0:
            own = share(change.place, change_of(change.pieces))
            weight = changed_weight(weight, own, change.pieces.get("dora_scale"), strength)
    return weight
