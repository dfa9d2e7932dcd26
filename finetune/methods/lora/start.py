"""Training that starts from a LoRA file of any trainer."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from finetune.config.lora import LoRAConfig
from finetune.export.lora import LoRALayer
from finetune.lora_files.layers import FileLayers, dead_text, read_layers
from finetune.lora_files.truncate import truncated
from finetune.methods.lora.init import AdapterLayer
from finetune.models.family import Network, is_inside
from finetune.plurals import first_few, plural


def read_start(config: LoRAConfig, network: Network) -> FileLayers:
    """Read the layers of lora.start; none without the option. Raises ValueError for files of another model."""
    if config.start is None:
        return FileLayers()
    try:
        return read_layers(config.start, network)
    except (ValueError, OSError) as error:
        raise ValueError(f"lora.start: {error}") from error


def sizes_with_start(
    config: LoRAConfig, start: FileLayers, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> tuple[dict[str, int], dict[str, float]]:
    """Return rank and alpha of each layer. Those of the file count if lora.start_rank says so."""
    kept = {name: layer for name, layer in start.layers.items() if name in ranks and name not in start.expanded}
    if config.start_rank == "run":
        kept = {}
    new_ranks = {name: layer.rank for name, layer in kept.items()}
    new_alphas = {name: layer.scale * layer.rank**0.5 if config.rslora else layer.alpha for name, layer in kept.items()}
    return {**ranks, **new_ranks}, {**alphas, **new_alphas}


def check_start(
    config: LoRAConfig, start: FileLayers, ranks: Mapping[str, int], unread: Sequence[str] = ()
) -> list[str]:
    """Warn of layers that are lacking, cut or in vain. Raises ValueError for layers that the run does not adapt: their
    part of the file would be lost. No prediction depends on those in `unread`."""
    if config.start is None:
        return []
    name, warnings = config.start.name, list[str]()
    refuse_other_model(name, start)
    if start.dead:
        warnings.append(f"lora.start: {dead_text(name, start)}")
    vain = sorted(layer for layer in set(start.layers) - set(ranks) if is_inside(layer, unread))
    if vain:
        warnings.append(
            f"lora.start: no prediction depends on {plural(len(vain), 'layer')} of {name} ({vain[0]}, ...)."
        )
    if others := sorted(set(start.layers) - set(ranks) - set(vain)):
        raise ValueError(
            f"lora.start: {name} adapts {plural(len(others), 'layer')} that this run does not ({first_few(others)}), "
            f"and would lose them. {advice(others, start)}"
        )
    if lacking := sorted(set(ranks) - set(start.layers)):
        warnings.append(
            f"lora.start: {name} has no layers for {len(lacking)} of {plural(len(ranks), 'adapted layer')} "
            f"({first_few(lacking)}); these start without a change."
        )
    cut = {layer: pair for layer, pair in start.layers.items() if layer in ranks and ranks[layer] < pair.rank}
    return [*warnings, *([cut_text(name, cut, ranks)] if cut else [])]


def cut_text(name: str, cut: Mapping[str, LoRALayer], ranks: Mapping[str, int]) -> str:
    """Say how much of the file's changes a lower rank leaves."""
    shares = [truncated(pair.down, pair.up, pair.scale, ranks[layer])[2] for layer, pair in cut.items()]
    return (
        f"lora.start: {plural(len(cut), 'layer')} of {name} cut to the run's rank; of a layer's change "
        f"{statistics.median(shares):.1%} is left in the median, {min(shares):.1%} at least (of its squared norm)."
    )


def refuse_other_model(name: str, start: FileLayers) -> None:
    """Raise ValueError for unknown layers, and for a file without changes."""
    if start.unknown:
        raise ValueError(
            f"lora.start: {name} has {plural(len(start.unknown), 'layer')} that the base model lacks "
            f"({first_few(start.unknown)}). Is it made for another base model?"
        )
    if not start.layers:
        why = f"{dead_text(name, start)} Expected" if start.dead else f"all changes in {name} are zero, expected"
        raise ValueError(f"lora.start: {why} a trained LoRA. Use another file.")


def advice(others: Sequence[str], start: FileLayers) -> str:
    """Return the options that adapt all layers of the file."""
    ends = sorted({ending(layer) for layer in start.layers if layer.startswith("denoiser.")})
    named = f"--lora.targets {' '.join(ends)}" if any(layer.startswith("denoiser.") for layer in others) else ""
    trained = any(layer.startswith("text_encoders.") for layer in others)
    return f"Use {' '.join(filter(None, (named, '--train.text_encoder true --cache.text false' if trained else '')))}."


def ending(layer: str) -> str:
    """Shorten a layer's name to an end that lora.targets takes."""
    parts = layer.split(".")
    place = next(
        number
        for number in reversed(range(len(parts)))
        if not parts[number].isdigit() and parts[number] not in ("proj", "net")
    )
    return ".".join(parts[place:])


@torch.no_grad()
def set_from_file(layer: AdapterLayer, given: LoRALayer) -> None:
    """Set A and B of peft's layer to a file's. With more rank than the file's, new rows of A keep their start and new
    columns of B are zero, so they can learn."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    rank = down.shape[0]
    if rank < given.rank:
        new_down, new_up, _ = truncated(given.down, given.up, given.scale, rank)
        given = replace(given, down=new_down, up=new_up, scale=1.0)
    down[: given.rank] = given.down.to(down.dtype)
    up.zero_()
    up[:, : given.rank] = (given.up.float() * (given.scale / layer.scaling["default"])).to(up.dtype)
