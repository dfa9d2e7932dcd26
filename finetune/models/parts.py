"""The parts of a model, each with its weights only as long as they are needed.

A part whose weights were dropped stays the same object, on torch's meta device: its settings and its layers are there,
and whatever computes with it fails. So memory holds one part at a time until the denoiser, which stays, is loaded.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.quantized.packed import packed_layers
from finetune.out_of_memory import explaining_out_of_memory

Part = Literal["denoiser", "vae", "text_encoders"]
PARTS: tuple[Part, ...] = ("vae", "text_encoders", "denoiser")
"""In the order they are loaded, the largest last."""


@dataclass(frozen=True)
class ModelParts:
    """Where the weights of a run's parts come from, and the parts."""

    family: ModelFamily
    source: ModelSource
    components: Components

    def load(self, *parts: Part) -> None:
        """Gives parts their weights on the CPU where they were dropped."""
        for part in parts:
            modules = self.modules(part)
            if any(is_dropped(module) for module in modules):
                for module, fresh in zip(modules, loaded(self.family, self.source, part), strict=True):
                    take_weights(module, fresh)

    def drop(self, *parts: Part) -> None:
        """Frees the memory of parts."""
        for part in parts:
            for module in self.modules(part):
                drop_weights(module)

    @contextmanager
    def lent(self, *parts: Part) -> Iterator[None]:
        """Within it the parts have weights; those that had none lose them again."""
        missing: list[Part] = [part for part in parts if any(is_dropped(module) for module in self.modules(part))]
        self.load(*missing)
        try:
            yield
        finally:
            self.drop(*missing)

    def modules(self, part: Part) -> Sequence[Any]:
        """Returns the modules of a part."""
        match part:
            case "denoiser":
                return (self.components.denoiser,)
            case "vae":
                return (self.components.vae,)
            case "text_encoders":
                return self.components.text_encoders


def load_sequentially(
    family: ModelFamily,
    source: ModelSource,
    looks: Callable[[Part, Sequence[Any]], None] = lambda part, modules: None,
    keep: Sequence[Part] = (),
) -> ModelParts:
    """Loads each part, lets `looks` see it and drops its weights where it is none of `keep`, the denoiser last; refuses
    a checkpoint of another family, and parts that do not belong together."""
    scheduler, tokenizers = family.scheduler(source), family.tokenizers(source)
    found: dict[Part, Sequence[Any]] = {}
    for part in PARTS:
        found[part] = loaded(family, source, part)
        looks(part, found[part])
        if part not in keep:
            for module in found[part]:
                drop_weights(module)
    (denoiser,), (vae,) = found["denoiser"], found["vae"]
    components = Components(denoiser, vae, tuple(found["text_encoders"]), tokenizers, scheduler)
    family.check(components, source)
    return ModelParts(family, source, components)


def loaded(family: ModelFamily, source: ModelSource, part: Part) -> Sequence[Any]:
    """Returns the modules of one part, frozen and in evaluation mode."""
    with explaining_out_of_memory(
        f"while weights of {source.location} were read ({part.replace('_', ' ')})",
        "Every process holds one part of the model in host memory at a time. Launch fewer processes, give weights in "
        "16 bits (model.variant), or use a machine with more memory.",
    ):
        match part:
            case "denoiser":
                modules = (family.denoiser(source),)
            case "vae":
                modules = (family.vae(source),)
            case "text_encoders":
                modules = family.text_encoders(source)
    return [module.requires_grad_(False).eval() for module in modules]


def is_dropped(module: nn.Module) -> bool:
    """True where the weights are not there."""
    return any(parameter.is_meta for parameter in module.parameters())


def for_drawing(components: Components, device: torch.device) -> Components:
    """Returns the components as a pipeline draws with them: text encoders whose weights were dropped are on the device
    without any."""
    text_encoders = [without_weights(part, device) if is_dropped(part) else part for part in components.text_encoders]
    return replace(components, text_encoders=tuple(text_encoders))


def without_weights(module: Any, device: torch.device) -> Any:
    """Returns a text encoder without layers, with the settings and the number format of the given one, on the device.

    diffusers' pipelines ask their text encoders for these also where they are given embeddings.
    """
    empty = copy.copy(module)
    weight = torch.empty(0, dtype=next(module.parameters()).dtype, device=device)
    empty._modules, empty._buffers = {}, {}
    empty._parameters = {"none": nn.Parameter(weight, requires_grad=False)}
    return empty


def drop_weights(module: nn.Module) -> None:
    """Leaves the module without its weights."""
    module.to("meta")
    for layer in packed_layers(module):
        layer.waiting.clear()


def take_weights(module: nn.Module, fresh: nn.Module) -> None:
    """Gives a module the weights and buffers of another one that is built in the same way, without a copy."""
    for own, other in zip(module.modules(), fresh.modules(), strict=True):
        for name, parameter in other.named_parameters(recurse=False):
            own.register_parameter(name, parameter)
        for name, buffer in other.named_buffers(recurse=False):
            setattr(own, name, buffer)
