"""Files of adapters of any layout, as low-rank layers of a network."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.export.fused import share
from finetune.export.lora import LoRALayer
from finetune.export.single_file import split_name
from finetune.files import file_sha256
from finetune.json_text import parse_json
from finetune.lora_files.names import adaptable_layers, known_names, spellings
from finetune.lora_files.show import read
from finetune.models.family import Network, SingleFileLayer
from finetune.plurals import first_few, plural
from finetune.sampling.adapter_notes import Scale, diffusers_scale, matching, require_number, require_numbers
from finetune.sampling.adapter_pieces import note_name, piece_of, refuse_malformed
from finetune.sampling.other_files import other_kind
from finetune.sampling.weight_changes import change_of, refuse_not_finite

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEPT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PLAIN = {"lora_down.weight", "lora_up.weight", "alpha"}


@dataclass(frozen=True)
class FileLayers:
    """The layers of a file, for a network."""

    layers: dict[str, LoRALayer] = field(default_factory=dict[str, LoRALayer])
    """By name in `Network`. Layers that the file has as one are apart."""
    expanded: frozenset[str] = frozenset()
    """Those of other kinds than LoRA: a pair of full rank holds the whole change."""
    unknown: tuple[str, ...] = ()
    """Names of layers that the network lacks."""
    dead: tuple[str, ...] = ()
    """Layers with alpha 0, which change nothing at any strength. They are not in `layers`."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def read_layers(path: Path, network: Network) -> FileLayers:
    """Read a file, or a folder of peft. Raises ValueError where it is damaged or cannot be expressed as low rank."""
    known, layers = known_names(network), adaptable_layers(network)
    found: dict[str, LoRALayer] = {}
    expanded: set[str] = set()
    unknown: list[str] = []
    dead: list[str] = []
    names: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for file, start in weight_files(path):
        tensors, own = read(file)
        metadata |= own
        scale = peft_scale(file) or diffusers_scale(own)
        for name, pieces in grouped(file, tensors).items():
            places = next((known[text] for text in spellings(renamed(name, start)) if text in known), None)
            if places is None:
                unknown.append(name)
                continue
            if not set(pieces) <= PLAIN:
                expanded |= set(places)
            for layer, place in places.items():
                note_name(path, names, layer, name)
                pair = low_rank(file, name, pieces, scale(name), layers[layer], place)
                if pair[2] == 0:
                    dead.append(layer)
                elif pair[0].shape[0]:
                    found[layer] = LoRALayer(*split_name(layer), *pair)
    return FileLayers(found, frozenset(expanded & set(found)), tuple(unknown), tuple(dead), metadata)


def dead_text(name: str, found: FileLayers) -> str:
    """Say what alpha 0 means for the layers that have it."""
    return (
        f"{name}: {plural(len(found.dead), 'layer')} of {len(found.dead) + len(found.layers)} with alpha 0 "
        f"({first_few(found.dead)}), whose change is zero at every strength."
    )


def weight_files(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files at a path. With each is the part that its names leave out."""
    if path.is_file():
        yield path, ""
        return
    inside = [path / PEFT_WEIGHTS, *sorted(path.glob(f"*/{PEFT_WEIGHTS}"))]
    files = [file for file in inside if file.is_file()]
    if not files:
        raise ValueError(
            f"{path} is a folder without {PEFT_WEIGHTS}, expected a safetensors file, or a folder that peft wrote. "
            "Name the file."
        )
    for file in files:
        yield file, "" if file.parent == path else file.parent.name


def weights_sha256(path: Path) -> str:
    """Hash the weights at a path. The configs of peft that scale them count too."""
    files = [file for file, _ in weight_files(path)]
    configs = [file.with_name(PEFT_CONFIG) for file in files if file.name == PEFT_WEIGHTS]
    hashes = [file_sha256(file) for file in (*files, *configs) if file.is_file()]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def renamed(name: str, start: str) -> str:
    """Return the layer's name with the part whose folder it is in."""
    return f"{start}.{name.removeprefix('base_model.model.')}" if start else name


def grouped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors by layer. Raises ValueError for those that belong to no kind of adapter."""
    refuse_malformed(path, tensors)
    refuse_not_finite(path, tensors)
    found: dict[str, dict[str, Tensor]] = {}
    others: list[str] = []
    for key, value in tensors.items():
        placed = piece_of(key)
        if placed is None:
            others.append(key)
        else:
            kept = value if value.dtype in KEPT_DTYPES else value.float()
            found.setdefault(placed[0], {})[placed[1]] = kept
    if others or not found:
        kind = other_kind(others)
        raise ValueError(
            f"{path} has {first_few(sorted(others)) if others else 'no tensors'}, expected those of LoRA, LoHa, LoKr "
            f"or weight differences alone. {f'It is {kind[0]}. {kind[1]}' if kind else 'Use another file.'}"
        )
    return found


def low_rank(
    path: Path,
    name: str,
    pieces: Mapping[str, Tensor],
    scale: float,
    layer: nn.Linear | nn.Conv2d,
    place: SingleFileLayer,
) -> tuple[Tensor, Tensor, float]:
    """Return a layer's down, up and scale, shaped as peft has them. `scale` counts without an alpha."""
    if held := sorted({"dora_scale", "diff_b"} & set(pieces)):
        raise ValueError(
            f"{path.name}: {name} has {held[0]}, which low-rank matrices cannot express. Merge the file instead: "
            "finetune lora merge."
        )
    shape = layer.weight.shape
    try:
        if set(pieces) <= PLAIN:
            down, up = pieces["lora_down.weight"], share(place, pieces["lora_up.weight"])
            if "alpha" in pieces:
                scale = float(pieces["alpha"]) / down.shape[0]
            if place.sizes:  # columns of other layers that share this one of the file
                used = up.float().flatten(1).abs().sum(0) != 0
                down, up = down[used], up[:, used]
        else:
            down, up, scale = whole(share(place, change_of(pieces)).reshape(shape[0], -1), scale=1.0)
        rank = down.shape[0]
        return down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * (len(shape) - 2)), scale
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path.name}: {name} does not fit the layer of the base model, whose weight is {tuple(shape)} "
            f"({error}). Is it made for another base model?"
        ) from error


def whole(change: Tensor, scale: float) -> tuple[Tensor, Tensor, float]:
    """Express any change [outputs inputs] as a product of full rank."""
    outputs, inputs = change.shape
    if outputs <= inputs:
        return change, torch.eye(outputs), scale
    return torch.eye(inputs), change, scale


def peft_scale(path: Path) -> Scale | None:
    """Read alpha / rank from the config beside the weights of peft. None without one."""
    file = path.with_name(PEFT_CONFIG)
    if path.name != PEFT_WEIGHTS or not file.is_file():
        return None
    try:
        config: Any = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}), so scales are not known. Copy it again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not an object with r and lora_alpha, so scales are not known. Copy it again.")
    usual_rank: Any = config.get("r")
    usual_alpha: Any = config.get("lora_alpha", usual_rank)
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    for name, value in (("r", usual_rank), ("lora_alpha", usual_alpha)):
        require_number(file, name, value)
    for name, patterns in (("alpha_pattern", alphas), ("rank_pattern", ranks)):
        require_numbers(file, name, patterns)

    def scale(name: str) -> float:
        layer = name.removeprefix("base_model.model.")
        rank = matching(ranks, layer, usual_rank)
        return matching(alphas, layer, usual_alpha) / (rank**0.5 if config.get("use_rslora") else rank)

    return scale
