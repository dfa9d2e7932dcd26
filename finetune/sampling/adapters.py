"""Adapters of a loaded model, with strengths that can change between images.

Files in the layouts of sd-scripts and LyCORIS change the weights themselves: base + strength x change. All others are
read by diffusers or peft, whose layers compute beside the weights.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from finetune.export.fused import Places, file_layers, share
from finetune.export.lora import pipeline_names
from finetune.export.single_file import split_name
from finetune.models.family import Components, ModelFamily, Network, SingleFileLayer
from finetune.plurals import first_few, plural
from finetune.sampling.weight_changes import change_of, changed_weight

KINDS = {f"{name}.weight" for name in ("lora_up", "lora_down", "lora_mid")} | {"alpha", "scalar", "dora_scale"}
KINDS |= {f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")} | {"diff", "diff_b"}
KINDS |= {f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}
"""Ends of the names of a layer's tensors that are understood."""
ANY_PREFIX = "lycoris"
"""What LyCORIS' own wrapper writes before names."""


class TunedLayer(BaseTunerLayer):
    """A layer of peft with its scales. For annotations alone: its own class does not declare them."""

    scaling: dict[str, float]


@dataclass(frozen=True)
class Change:
    """One layer of a file, for a layer of the model."""

    pieces: Mapping[str, Tensor]
    place: SingleFileLayer


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
        own = [*family.kohya_prefixes.values(), ANY_PREFIX]
        if keys and all(any(key.startswith(f"{prefix}_") for prefix in own) for key in keys):
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


def file_keys(path: Path) -> set[str]:
    """Return the names of a file's tensors. Raises ValueError for a file that is not readable."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"lora: {path} is not a readable safetensors file ({error}). Use another file.") from error


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
            f"{first_few(unknown)}. Is it made for another base model?"
        )
    found: dict[str, Change] = {}
    for name, own in pieces.items():
        for layer, place in places[name].items():
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
                raise ValueError(f"unknown tensors {', '.join(unknown)}.")
            num = share(place, change_of(own)).numel()
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"lora: {path.name}: {name} is not understood: {error} Use another file.") from error
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


def tuned_layers(
    family: ModelFamily, components: Components, network: Network, path: Path, name: str, warnings: list[str]
) -> dict[str, tuple[TunedLayer, float]]:
    """Load a file with diffusers or peft; return the layers it adapts."""
    if not path.is_dir() and not family.reads_lora:
        raise ValueError(f"lora: diffusers reads no LoRA of {family.title}, which {path.name} seems to be. Remove it.")
    with said_by_diffusers(path, warnings):
        if path.is_dir():
            for part, own in pipeline_names(family.pipeline(components), components).items():
                if (path / own).is_dir():
                    PeftModel.from_pretrained(network.get_submodule(part), str(path / own), adapter_name=name)
        else:
            try:
                family.pipeline(components).load_lora_weights(
                    str(path.parent), weight_name=path.name, use_safetensors=True, adapter_name=name
                )
            except (ValueError, KeyError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(f"lora: {path.name} does not load into {family.title}: {reason}") from error
    found: dict[str, tuple[TunedLayer, float]] = {}
    for layer, module in network.named_modules():
        if isinstance(module, BaseTunerLayer) and name in module._get_available_adapters():
            tuned = cast("TunedLayer", module)
            found[layer] = tuned, float(tuned.scaling[name]) if has_strength(module) else 1.0
    if not found:
        raise ValueError(f"lora: {path.name} adapts no layer of {family.title}. Is it made for another base model?")
    return found


def has_strength(layer: object) -> bool:
    """Recognise layers of peft that scale their change. Those of OFT rotate weights as a whole."""
    return isinstance(layer, LoraLayer | LycorisLayer)


@contextmanager
def said_by_diffusers(path: Path, warnings: list[str]) -> Iterator[None]:
    """Collect what diffusers warns of while it loads a file. A part of the model that the file lacks is not a fault."""
    keys = set[str]() if path.is_dir() else file_keys(path)

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
