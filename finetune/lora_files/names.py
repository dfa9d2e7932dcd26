"""Names of layers in the files of all trainers."""

from collections.abc import Iterator

from torch import nn

from finetune.export.fused import Places
from finetune.export.single_file import published_name, split_name
from finetune.models.family import Network, SingleFileLayer
from finetune.sampling.adapter_files import known_layers

DIFFUSERS_STARTS = ("unet.", "transformer.", "base_model.model.", "")
"""What diffusers, ai-toolkit and peft write before the denoiser's names."""
ORIGINAL_STARTS = ("diffusion_model.", "model.diffusion_model.")
ONE_TRAINER = "lora_transformer"
"""What OneTrainer writes before diffusers' names with underscores."""


def adaptable_layers(network: Network) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the linear layers and convolutions by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


def known_names(network: Network) -> dict[str, Places]:
    """Return the network's layers by every name that files have."""
    layers, family = adaptable_layers(network), network.family
    found = known_layers(family, network, layers)
    joined: dict[str, Places] = {}
    for name in layers:
        part, module = split_name(name)
        if part != "denoiser":
            for known in text_encoder_names(network, part, module):
                found.setdefault(known, {name: SingleFileLayer(module)})
            continue
        for start in DIFFUSERS_STARTS:
            found.setdefault(f"{start}{module}", {name: SingleFileLayer(module)})
        found.setdefault(f"{ONE_TRAINER}_{module.replace('.', '_')}", {name: SingleFileLayer(module)})
        place = family.original_layer(network.denoiser, module)
        for start in ORIGINAL_STARTS:
            joined.setdefault(f"{start}{place.name}", {})[name] = place
    for known, places in joined.items():
        found.setdefault(known, dict(sorted(places.items(), key=lambda item: item[1].place)))
    return found


def text_encoder_names(network: Network, part: str, module: str) -> Iterator[str]:
    """Yield the dotted names of a text encoder's layer."""
    number = int(part.rpartition(".")[2])
    encoder = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
    original = network.family.original_text_encoders(network.trained_text_encoders)[number]
    for inner in dict.fromkeys((module, published_name(part, module), module.removeprefix("text_model."))):
        yield f"{encoder}.{inner}"
        yield f"text_encoders.{original}.transformer.{inner}"


def spellings(name: str) -> Iterator[str]:
    """Yield the ways to look a file's name up. diffusers' oldest files name attention processors."""
    yield name
    plain = name.replace(".processor.", ".")
    yield plain
    if plain.endswith("to_out"):
        yield f"{plain}.0"
