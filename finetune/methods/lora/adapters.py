"""peft's adapter layers in a network."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoHaConfig, LoKrConfig, OFTConfig, PeftConfig, inject_adapter_in_model
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from finetune.config.lora import LoRAConfig, parsed_patterns
from finetune.export.single_file import split_name
from finetune.methods.lora.init import AdapterLayer, set_start
from finetune.methods.lora.start import read_start, set_from_file, sizes_with_start
from finetune.models.family import Network, is_inside
from finetune.models.stored import readable_as_float32

BLOCK_SIZE = 32

Sizes = tuple[dict[str, int], dict[str, float]]
"""Rank and alpha of each layer."""


def attach_adapters(network: Network, config: LoRAConfig, seed: int) -> dict[str, PeftConfig]:
    """Add adapters to the parts of the network. Return each part's peft config. The same seed gives the same start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with readable_as_float32(network):
            return _attach(network, config)


def planned_layers(network: Network, config: LoRAConfig) -> tuple[dict[str, list[str]], Sizes]:
    """Return each part's layers to adapt, with rank and alpha. Names and patterns without a match are refused."""
    family = network.family
    if config.conv and not family.lora_conv_targets:
        raise ValueError(f"lora.conv: got true, but the denoiser of {family.title} has no convolutions. Remove it.")
    targets = {
        "denoiser": (*(config.targets or family.lora_targets), *(family.lora_conv_targets if config.conv else ()))
    }
    targets |= {f"text_encoders.{i}": family.text_encoder_lora_targets for i, _ in enumerate(network.text_encoders)}
    unread = family.unread_layers(network.trained_text_encoders)
    names = {
        part: [
            name
            for name in adapted_layers(network.get_submodule(part), part, chosen)
            if not is_inside(f"{part}.{name}", unread)
        ]
        for part, chosen in targets.items()
    }
    refuse_unmatched(config.targets, names["denoiser"])
    if config.kind == "oft":
        for part, chosen in names.items():
            refuse_other_widths(network.get_submodule(part), part, chosen, block_size(config))
    return names, layer_sizes(config, [f"{part}.{name}" for part in names for name in names[part]])


def _attach(network: Network, config: LoRAConfig) -> dict[str, PeftConfig]:
    names, sizes = planned_layers(network, config)
    start = read_start(config, network)
    ranks, alphas = sizes_with_start(config, start, *sizes)
    configs = peft_configs(config, names, (ranks, alphas))
    for part, own in configs.items():
        inject_adapter_in_model(own, network.get_submodule(part))
    if config.init in ("orthogonal", "pissa", "olora"):
        for name, layer in adapter_layers(network):
            set_start(layer, config.init, name)
    for name, layer in adapter_layers(network):
        if name in start.layers:
            set_from_file(layer, start.layers[name])
    return configs


def attached_configs(network: Network, config: LoRAConfig) -> dict[str, PeftConfig]:
    """Return each part's peft config of an adapted network. It started without a file."""
    names: dict[str, list[str]] = {}
    for name, _ in adapter_layers(network):
        part, module = split_name(name)
        names.setdefault(part, []).append(module)
    return peft_configs(config, names, layer_sizes(config, [name for name, _ in adapter_layers(network)]))


def peft_configs(config: LoRAConfig, names: Mapping[str, Sequence[str]], sizes: Sizes) -> dict[str, PeftConfig]:
    """Return peft's config of each part for the layers with these names."""
    ranks, alphas = sizes
    return {
        part: peft_config(
            config,
            chosen,
            {name: ranks[f"{part}.{name}"] for name in chosen},
            {name: alphas[f"{part}.{name}"] for name in chosen},
        )
        for part, chosen in names.items()
    }


def peft_config(
    config: LoRAConfig, names: Sequence[str], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> PeftConfig:
    """Return peft's config for exactly the layers `names`. Some may have their own rank or alpha."""
    if config.kind == "oft":
        # The exact Cayley transform: peft's default is a series that leaves the rotations when they grow.
        return OFTConfig(r=0, oft_block_size=block_size(config), use_cayley_neumann=False, target_modules=list(names))
    rank, alpha = config.rank, float(config.rank if config.alpha is None else config.alpha)
    sizes: dict[str, Any] = {
        "r": rank,
        "target_modules": list(names),
        "rank_pattern": {f"^{re.escape(name)}": ranks[name] for name in names if ranks[name] != rank},
        "alpha_pattern": {f"^{re.escape(name)}": alphas[name] for name in names if alphas[name] != alpha},
    }
    match config.kind:
        case "loha":
            return LoHaConfig(alpha=alpha, **sizes)  # pyright: ignore[reportArgumentType]  (peft says int, and divides)
        case "lokr":
            return LoKrConfig(alpha=alpha, decompose_factor=config.factor, **sizes)  # pyright: ignore[reportArgumentType]
    return PeftLoraConfig(
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
        **sizes,
    )


def block_size(config: LoRAConfig) -> int:
    """Return the side of oft's rotations."""
    return config.block_size or BLOCK_SIZE


def layer_sizes(config: LoRAConfig, names: Sequence[str]) -> Sizes:
    """Return rank and alpha of each layer. Raises ValueError for a pattern without a match."""
    ranks = dict.fromkeys(names, config.rank) | {
        name: int(rank) for name, rank in matched(config.rank_pattern, "lora.rank_pattern", names).items()
    }
    alphas = {name: float(ranks[name] if config.alpha is None else config.alpha) for name in names}
    return ranks, alphas | matched(config.alpha_pattern, "lora.alpha_pattern", names)


def matched(patterns: tuple[str, ...], option: str, names: Sequence[str]) -> dict[str, float]:
    """Return each matching layer with the number of its first pattern."""
    parsed = parsed_patterns(patterns)
    for text, (pattern, _) in zip(patterns, parsed, strict=True):
        if not any(pattern.search(name) for name in names):
            raise ValueError(
                f'{option}: "{text}" matches no adapted layer ({len(names):,} in all), such as {names[0]}. Correct or '
                "remove it."
            )
    return {
        name: next(number for pattern, number in parsed if pattern.search(name))
        for name in names
        if any(pattern.search(name) for pattern, _ in parsed)
    }


def adapted_layers(module: nn.Module, part: str, targets: Sequence[str]) -> list[str]:
    """Return the layers whose names end with a target. All but linear layers and convolutions are refused."""
    found = []
    for name, layer in module.named_modules():
        if any(ends_with(name, target) for target in targets):
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                raise ValueError(
                    f"lora.targets: {part}.{name} is a {type(layer).__name__}, expected names of linear layers or "
                    "convolutions."
                )
            found.append(name)
    if not found:
        kinds = {name.rpartition(".")[2] for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        named = sorted(kind for kind in kinds if not kind.isdigit())
        raise ValueError(
            f"lora.targets: no layer of {part} ends with one of {', '.join(targets)}. Use ends of names of its linear "
            f"layers: {', '.join(named)}; convolutions can be given too."
        )
    return found


def ends_with(name: str, target: str) -> bool:
    """Compare a layer's last names with a target; * is any name."""
    given, wanted = name.split("."), target.split(".")
    ending = given[-len(wanted) :]
    return len(ending) == len(wanted) and all(w in ("*", g) for g, w in zip(ending, wanted, strict=True))


def refuse_unmatched(targets: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError for a target that no layer's name ends with."""
    lost = [target for target in targets if not any(ends_with(name, target) for name in names)]
    if lost:
        raise ValueError(f"lora.targets: no layer of the denoiser ends with {', '.join(lost)}. Correct or remove it.")


def refuse_other_widths(module: nn.Module, part: str, names: Sequence[str], block_size: int) -> None:
    """Refuse layers that do not fit rotations of this size. Kernels that peft 0.21 gets wrong are refused too."""
    for name in names:
        layer = cast("nn.Linear | nn.Conv2d", module.get_submodule(name))
        width = layer.weight.shape[1]
        if layer.weight[0, 0].numel() > 1:
            raise ValueError(f"lora.targets: {part}.{name} has a kernel larger than 1, which oft does not do here.")
        if width % block_size:
            raise ValueError(
                f"lora.block_size: got {block_size}, but {part}.{name} has {width} inputs; expected a divisor of it."
            )


def adapter_layers(network: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Yield name and peft layer of all that is adapted."""
    for name, layer in network.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, cast("AdapterLayer", layer)


def layer_scales(network: nn.Module) -> dict[str, float]:
    """Return the factor of each layer's update; oft has none."""
    return {name: layer.scaling["default"] for name, layer in adapter_layers(network)}


@torch.no_grad()
def merged_differences(network: nn.Module) -> dict[str, torch.Tensor]:
    """Merge the adapters into the weights; return each weight's change."""
    found = {}
    for name, layer in adapter_layers(network):
        before = layer.get_base_layer().weight.detach().clone()
        layer.merge()
        found[name] = layer.get_base_layer().weight.detach() - before
    return found
