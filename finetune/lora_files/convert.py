"""A LoRA file in another layout, read again and compared."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from finetune.export.lora import LoRALayer
from finetune.lora_files.layers import FileLayers, dead_text, read_layers
from finetune.lora_files.layouts import restored, write_layout
from finetune.lora_files.options import MERGE_FIRST, ConvertConfig
from finetune.models import family_named
from finetune.models.family import ModelSource, Network
from finetune.models.loading.components import find_family
from finetune.plurals import first_few, plural

LARGEST = {"same": 1e-6, "fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}
"""Largest relative difference of a layer's change, by number format."""


def convert(config: ConvertConfig, say: Callable[[str], None] = print) -> Path:
    """Write the file in another layout; return its path. Raises ValueError for files that are not plain LoRA."""
    source = replace(ModelSource.from_config(config.model), is_empty=True)
    network = empty_network(source, config.model.family)
    path = Path(config.files[0])
    found = read_layers(path, network)
    refuse_unconvertible(path, found)
    layers = restored(found.layers, found.metadata)
    if found.dead:
        say(f"warning: {dead_text(path.name, found)} The new file is without them.")
    notes = write_layout(network, layers, config.to, dtype=config.dtype, metadata=found.metadata, path=config.output)
    largest = compare(config.output, layers, network, LARGEST[config.dtype])
    for note in notes:
        say(f"warning: {note}")
    say(
        f"{config.output}: {plural(len(layers), 'layer')} in the layout {config.to}; read again, no layer's change "
        f"differs by more than {largest:.1e} relative."
    )
    return config.output


def refuse_unconvertible(path: Path, found: FileLayers) -> None:
    """Raise ValueError for unknown layers, other kinds than LoRA, and no changes."""
    if found.unknown:
        raise ValueError(
            f"files: {path.name} has layers that the base model lacks ({first_few(found.unknown)}). Use another "
            "file or model.source."
        )
    if found.expanded:
        raise ValueError(
            f"files: {path.name} has layers of other kinds than plain LoRA ({first_few(sorted(found.expanded))}), "
            f"which these layouts lack. {MERGE_FIRST}"
        )
    if not found.layers:
        why = dead_text(path.name, found) if found.dead else f"{path.name} has no layers."
        raise ValueError(f"files: {why} Use another file.")


def empty_network(source: ModelSource, family: str | None) -> Network:
    """Return all of a model's adaptable parts, without weights."""
    known = family_named(find_family(source, family))
    return Network(known, known.denoiser(source), known.text_encoders(source))


def compare(path: Path, layers: Mapping[str, LoRALayer], network: Network, largest: float) -> float:
    """Compare what was written with what is read. Returns the largest relative difference. Raises ValueError where it
    is above `largest`; the file is then left for a report."""
    return checked_difference(path, read_layers(path, network).layers, layers, largest)


def checked_difference(
    path: Path, written: Mapping[str, LoRALayer], layers: Mapping[str, LoRALayer], largest: float
) -> float:
    """Compare what was read from a file, as `compare` does."""
    expected = {name for name, layer in layers.items() if bool(layer.up.any())}  # zeros may be left out where joined
    if not expected <= written.keys() <= layers.keys():
        raise ValueError(f"output: {path} has other layers than were written. Do not use it, and report this.")
    differences = {name: difference(layers[name], layer) for name, layer in written.items()}
    name, worst = max(differences.items(), key=lambda item: item[1])
    if not worst <= largest:
        raise ValueError(
            f"output: {path}: the change of {name} differs by {worst:.2g} relative, expected at most {largest:g}. "
            "Do not use it, and report this."
        )
    return worst


def difference(one: LoRALayer, other: LoRALayer) -> float:
    """Return ||one - other|| / ||one|| of two changes. Neither is made as a whole."""
    if torch.equal(one.down, other.down) and torch.equal(one.up, other.up) and one.scale == other.scale:
        return 0.0
    ups = torch.cat([one.up.double().flatten(1) * one.scale, -other.up.double().flatten(1) * other.scale], dim=1)
    downs = torch.cat([one.down.double().flatten(1), other.down.double().flatten(1)])
    _, left = torch.linalg.qr(ups)
    _, right = torch.linalg.qr(downs.T)
    whole = torch.linalg.qr(ups[:, : one.rank]).R @ torch.linalg.qr(downs[: one.rank].T).R.T
    size = float(whole.norm())
    return float((left @ right.T).norm()) / size if size else float((left @ right.T).norm())
