"""Adapters merged into their base model, compared and written."""

from collections.abc import Callable
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from finetune.config.loss import LossConfig
from finetune.export.damaged_model import refuse_damaged_model
from finetune.export.one_file import save_one_file
from finetune.export.pipeline import save_full_pipeline
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.options import MergeConfig
from finetune.models import family_named
from finetune.models.family import Components, ModelFamily, ModelSource, Network
from finetune.models.loading.components import find_family
from finetune.sampling.adapters import load_adapters, set_all_strengths
from finetune.sampling.weight_changes import all_finite

LARGEST = 1e-5
"""Largest relative difference of the denoiser's output between merged weights and adapters beside the weights."""


def merge(config: MergeConfig, say: Callable[[str], None] = print) -> Path:
    """Write the merged model; return its path. Raises ValueError for files that do not fit the base model."""
    source = ModelSource.from_config(config.model)
    family = family_named(find_family(source, config.model.family))
    components = family.load(source)
    refuse_damaged_model("model.source", source.location, components)
    for part in (components.denoiser, components.vae, *components.text_encoders):
        part.requires_grad_(False).eval()
    base = prediction(family, components)
    warnings: list[str] = []
    adapters = load_adapters(family, components, [path for path, _ in config.adapters], warnings)
    for warning in warnings:
        say(f"warning: {warning}")
    for path, strength in config.adapters:
        if strength == 0:
            say(f"warning: files: {path.name} at strength 0 changes nothing.")
    set_all_strengths(adapters, [strength for _, strength in config.adapters])
    beside = prediction(family, components)
    num = merge_layers(family, components)
    num += len(adapters.weights)
    merged = prediction(family, components)
    if not all_finite(merged) or not all_finite(beside):
        given = ", ".join(f"{path.name} at {strength:g}" for path, strength in config.adapters)
        raise ValueError(
            f"files: with {given} the denoiser's output is not finite. Use strengths nearer to 1. Nothing was written."
        )
    difference = relative_difference(beside, merged)
    if not difference <= LARGEST:
        raise ValueError(
            f"files: the merged weights do not reproduce the adapters: the output differs by {difference:.2g} "
            f"relative, expected at most {LARGEST:g}. Nothing was written; report this."
        )
    if config.output.suffix == ".safetensors":
        objective = family.objective(components.scheduler, LossConfig())
        rounding = save_one_file(family, components, objective, dtype=config.dtype, path=config.output, say=say)
    else:
        assert config.dtype != "fp8", "checked with the options"
        rounding = save_full_pipeline(family, components, dtype=config.dtype, folder=config.output, source=source)
    names = ", ".join(f"{path.name} at {strength:g}" for path, strength in config.adapters)
    say(f"Merged {names} into {num} weights of {source.location}: {config.output}")
    say(
        f"The denoiser's output moved by {relative_difference(base, merged):.2g} relative; it differs from that with "
        f"adapters beside the weights by {difference:.1e}, and {config.dtype} adds {rounding:.1e}."
    )
    return config.output


@torch.no_grad()
def merge_layers(family: ModelFamily, components: Components) -> int:
    """Merge the layers of peft, and take them out. Returns how many there were."""
    network = Network(family, components.denoiser, components.text_encoders)
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in found:
        layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer.get_base_layer())
    for part in (components.denoiser, *components.text_encoders):
        forget_adapters(part)
    return len(found)


def forget_adapters(part: nn.Module) -> None:
    """Remove the notes of loaded adapters. With them a part would save adapters too."""
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(part):
            delattr(part, name)
