"""The parts of a model, each with weights only while needed.

A part whose weights were dropped stays the same object, on torch's meta device: its settings and its layers are there,
and whatever computes with it fails. So memory holds one part at a time until the denoiser, which stays, is loaded.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.interfaces import VAE, Denoiser, TextEncoder
from finetune.models.quantized.packed import packed_layers
from finetune.out_of_memory import explaining_out_of_memory

Part = Literal["denoiser", "vae", "text_encoders"]
PARTS: tuple[Part, ...] = ("vae", "text_encoders", "denoiser")
"""In the order in which they are loaded, the largest last."""


@dataclass(frozen=True)
class ModelParts:
    """The parts of a run's model, and the source of their weights."""

    family: ModelFamily
    source: ModelSource
    components: Components

    def load(self, *parts: Part) -> None:
        """Load the weights of parts that lack them, on the CPU."""
        for part in parts:
            modules = self.modules(part)
            if any(is_dropped(module) for module in modules):
                for module, fresh in zip(modules, loaded(self.family, self.source, part), strict=True):
                    take_weights(module, fresh)

    def drop(self, *parts: Part) -> None:
        """Free the memory of parts."""
        for part in parts:
            for module in self.modules(part):
                drop_weights(module)

    @contextmanager
    def lent(self, *parts: Part) -> Iterator[None]:
        """Load parts within the context. Those that had no weights lose them again."""
        missing: list[Part] = [part for part in parts if any(is_dropped(module) for module in self.modules(part))]
        self.load(*missing)
        try:
            yield
        finally:
            self.drop(*missing)

    def modules(self, part: Part) -> Sequence[nn.Module]:
        """Return the modules of a part."""
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
    looks: Callable[[Part, Sequence[nn.Module]], None] = lambda part, modules: None,
    keep: Sequence[Part] = (),
) -> ModelParts:
    """Load each part, pass it to `looks` and drop its weights. The denoiser is last; parts in `keep` are not dropped. A
    checkpoint of another family is refused, as are parts that do not belong together."""
    scheduler, tokenizers = family.scheduler(source), family.tokenizers(source)
    found: dict[Part, Sequence[nn.Module]] = {}
    for part in PARTS:
        found[part] = loaded(family, source, part)
        looks(part, found[part])
        if part not in keep:
            for module in found[part]:
                drop_weights(module)
    (denoiser,), (vae,) = cast("list[Denoiser]", found["denoiser"]), cast("list[VAE]", found["vae"])
    text_encoders = cast("list[TextEncoder]", found["text_encoders"])
    components = Components(denoiser, vae, tuple(text_encoders), tokenizers, scheduler)
    family.check(components, source)
    return ModelParts(family, source, components)


def loaded(family: ModelFamily, source: ModelSource, part: Part) -> Sequence[nn.Module]:
    """Return the modules of one part, frozen and in evaluation mode."""
    with explaining_out_of_memory(
        f"while weights of {source.location} were read ({part.replace('_', ' ')})",
        "Every process holds one part of the model in host memory at a time. Launch fewer processes, give weights in "
        "16 bits (model.variant), or use a machine with more memory.",
    ):
        match part:
            case "denoiser":
                modules: Sequence[nn.Module] = (family.denoiser(source),)
            case "vae":
                modules = (family.vae(source),)
            case "text_encoders":
                modules = family.text_encoders(source)
    return [module.requires_grad_(False).eval() for module in modules]


def is_dropped(module: nn.Module) -> bool:
    """True if the weights are not loaded."""
    return any(parameter.is_meta for parameter in module.parameters())


def for_drawing(components: Components, device: torch.device) -> Components:
    """Return the components for a pipeline that draws. Text encoders without weights are empty and on the device."""
    text_encoders = [without_weights(part, device) if is_dropped(part) else part for part in components.text_encoders]
    return replace(components, text_encoders=tuple(text_encoders))


def without_weights(module: TextEncoder, device: torch.device) -> TextEncoder:
    """Return an empty text encoder with the given one's settings. It has no layers, and the same number format.
    diffusers' pipelines read these from text encoders even if they get embeddings."""
    empty = copy.copy(module)
    weight = torch.empty(0, dtype=next(module.parameters()).dtype, device=device)
    empty._modules, empty._buffers = {}, {}
    empty._parameters = {"none": nn.Parameter(weight, requires_grad=False)}
    return empty


def drop_weights(module: nn.Module) -> None:
    """Remove the module's weights."""
    module.to("meta")
    for layer in packed_layers(module):
        layer.waiting.clear()


def take_weights(module: nn.Module, fresh: nn.Module) -> None:
    """Move the weights and buffers of an equal module into another."""
    for own, other in zip(module.modules(), fresh.modules(), strict=True):
        for name, parameter in other.named_parameters(recurse=False):
            own.register_parameter(name, parameter)
        for name, buffer in other.named_buffers(recurse=False):
            setattr(own, name, buffer)
