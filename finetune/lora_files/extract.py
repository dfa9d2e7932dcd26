"""A LoRA file from the difference of two models."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from finetune.export.damaged_model import refuse_damaged_model
from finetune.export.lora import LoRALayer
from finetune.export.single_file import split_name
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.convert import LARGEST, compare
from finetune.lora_files.layers import whole
from finetune.lora_files.layouts import write_layout
from finetune.lora_files.names import adaptable_layers
from finetune.lora_files.options import ExtractConfig
from finetune.lora_files.resize import spread
from finetune.lora_files.truncate import truncated
from finetune.models import family_named
from finetune.models.family import Components, ModelFamily, ModelSource, Network
from finetune.models.loading.components import find_family
from finetune.plurals import first_few, plural


@torch.no_grad()
def extract(config: ExtractConfig, say: Callable[[str], None] = print) -> Path:
    """Write the nearest LoRA of the tuned model's changes; return its path."""
    source = ModelSource.from_config(config.model)
    family = family_named(find_family(source, config.model.family))
    components = family.load(source)
    tuned = load_tuned(family, source, config)
    network, other = (Network(family, each.denoiser, each.text_encoders) for each in (components, tuned))
    refuse_damaged_model("model.source", source.location, components)
    refuse_damaged_model("tuned", config.tuned, tuned)
    before, wanted = prediction(family, components), prediction(family, tuned)
    layers: dict[str, LoRALayer] = {}
    shares: list[float] = []
    for name, change in changes(network, other, config):
        down, up, share = truncated(*whole(change.flatten(1), 1.0), config.rank, config.energy)
        rank, shape = down.shape[0], change.shape
        shaped = down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * (len(shape) - 2))
        layers[name] = LoRALayer(*split_name(name), *shaped, scale=1.0)
        shares.append(share)
    if not layers:
        raise ValueError(
            f"tuned: no linear layer or convolution of {config.tuned} differs from {source.location}. Give the tuned "
            "model first, and its own base model second."
        )
    lost = left_out(network, other)
    metadata = {"ss_network_dim": str(config.rank or "Dynamic"), "ss_network_module": "networks.lora"}
    notes = write_layout(network, layers, config.to, dtype=config.dtype, metadata=metadata, path=config.output)
    compare(config.output, layers, network, LARGEST[config.dtype])
    add(network, layers)
    reached = prediction(family, components)
    if lost:
        notes.append(
            f"{plural(len(lost), 'changed weight')} of norms, biases or tables cannot be in a LoRA: {first_few(lost)}."
        )
    for note in notes:
        say(f"warning: {note}")
    ranks = sorted({layer.rank for layer in layers.values()})
    say(
        f"{config.output}: {plural(len(layers), 'layer')}, rank {spread(ranks)}; of a layer's change "
        f"{statistics.median(shares):.1%} is kept in the median, {min(shares):.1%} at least."
    )
    say(
        f"The tuned model's output differs by {relative_difference(wanted, before):.2g} relative from the base model's "
        f"and by {relative_difference(wanted, reached):.2g} from that of the base model with the LoRA."
    )
    return config.output


def load_tuned(family: ModelFamily, source: ModelSource, config: ExtractConfig) -> Components:
    """Load the tuned model. Errors name its own options, not those of the base model."""
    own = replace(source, location=config.tuned, config=config.tuned_config, variant=None, revision=None)
    try:
        return family.load(own)
    except (ValueError, OSError) as error:
        text = str(error).replace("model.source", "tuned").replace("model.config", "tuned_config")
        raise ValueError(text) from error


def changes(network: Network, other: Network, config: ExtractConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield each changed weight of a layer, with its change. Raises ValueError for models of other shapes."""
    others = adaptable_layers(other)
    for name, layer in adaptable_layers(network).items():
        if name not in others or others[name].weight.shape != layer.weight.shape:
            raise ValueError(
                f"tuned: {name} of {config.tuned} has another shape than that of the base model. Use the model that it "
                "was tuned from."
            )
        change = others[name].weight - layer.weight
        if bool(change.any()):
            yield name, change


def left_out(network: Network, other: Network) -> list[str]:
    """Name the changed weights that no LoRA can have."""
    adapted = {f"{name}.weight" for name in adaptable_layers(network)}
    before = dict(network.named_parameters())
    return [
        name for name, value in other.named_parameters() if name not in adapted and not torch.equal(value, before[name])
    ]


def add(network: Network, layers: dict[str, LoRALayer]) -> None:
    """Add the layers' changes to the model's weights."""
    found = adaptable_layers(network)
    for name, layer in layers.items():
        weight = found[name].weight
        weight += (layer.scale * layer.up.flatten(1) @ layer.down.flatten(1)).reshape(weight.shape)
