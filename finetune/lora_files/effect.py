"""The effect of adapters on a base model whose weights are rounded.

The effect is what adapters change in the denoiser's output for fixed inputs, in float32: f(W + C) - f(W). With rounded
weights Q(W) it is measured three times: with the adapters beside the weights, f(Q(W) + C) - f(Q(W)); merged before
rounding, f(Q(W + C)) - f(Q(W)); and merged into rounded weights, f(Q(Q(W) + C)) - f(Q(W)). The last loses changes of
less than half a step of the number format.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.export.damaged_model import refuse_damaged_model
from finetune.export.one_file import cast_layers
from finetune.export.verify import base_model, prediction, relative_difference
from finetune.lora_files.merge import merge_layers
from finetune.lora_files.options import EffectConfig, RoundedTo
from finetune.models import family_named
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.interfaces import Denoiser
from finetune.models.loading.components import find_family
from finetune.models.quantized.number_formats import Kind, pack, unpack
from finetune.models.quantized.packed import packable_layers
from finetune.sampling.adapters import load_adapters, set_all_strengths

PLAIN = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
"""Formats that weights are cast to without scales."""
SCALED: dict[RoundedTo, Kind] = {"fp8_scaled": "fp8", "int8": "int8", "nf4": "nf4"}
"""Formats of `model.quantization`."""
PLACES = {
    "beside": "beside the weights",
    "merged_first": "merged, then rounded",
    "merged_last": "merged into rounded",
}


@dataclass(frozen=True)
class EffectLeft:
    """An effect on rounded weights, against that on the exact ones."""

    error: float
    """||other - effect|| / ||effect||."""
    cosine: float
    lost: float
    """1 - <other, effect> / ||effect||^2: what is missing along the effect, negative where it is stronger."""


@dataclass(frozen=True)
class RoundedEffects:
    """The effects at one number format."""

    rounding: float
    """Relative change of the base model's output by the rounding alone."""
    beside: EffectLeft
    merged_first: EffectLeft
    merged_last: EffectLeft


def measure_effect(config: EffectConfig, say: Callable[[str], None] = print) -> dict[str, RoundedEffects]:
    """Print and return the effects per number format. Raises ValueError where the adapters change nothing."""
    source = ModelSource.from_config(config.model)
    family = family_named(find_family(source, config.model.family))
    warnings: list[str] = []
    components = loaded_base(family, source)
    refuse_damaged_model("model.source", source.location, components)
    before = prediction(family, components)
    adapt(family, components, config, warnings)
    effect = prediction(family, components) - before
    for warning in warnings:
        say(f"warning: {warning}")
    if not float(effect.norm()) > 0:
        raise ValueError(
            "files: the adapters change nothing in the denoiser's output. Use trained files, strengths above 0."
        )
    names = ", ".join(f"{path.name} at {strength:g}" for path, strength in config.adapters)
    say(
        f"{names}: the output of {source.location} moves by {relative_difference(before, before + effect):.2g} "
        "relative. This effect on a denoiser with rounded weights:"
    )
    say(f"{'':10}  {'base':>7}  " + "  ".join(f"{place:^22}" for place in PLACES.values()).rstrip())
    say(f"{'':10}  {'moves':>7}  " + "  ".join(f"{'error':>7} {'cosine':>7} {'lost':>6}" for _ in PLACES))
    found: dict[str, RoundedEffects] = {}
    for kind in config.formats:
        del components
        components = loaded_base(family, source)
        found[kind] = rounded_effects(family, source, components, config, kind, (before, effect))
        cells = (vars(found[kind])[place] for place in PLACES)
        texts = (f"{each.error:7.1%} {each.cosine:7.3f} {each.lost:6.1%}" for each in cells)
        say(f"{kind:10}  {found[kind].rounding:7.1%}  " + "  ".join(texts))
    return found


def rounded_effects(
    family: ModelFamily,
    source: ModelSource,
    components: Components,
    config: EffectConfig,
    kind: RoundedTo,
    exact: tuple[Tensor, Tensor],
) -> RoundedEffects:
    """Measure one number format. `components` are a fresh base model, `exact` its output and the effect on it."""
    before, effect = exact
    round_weights(components.denoiser, kind)
    start = prediction(family, components)
    adapt(family, components, config)
    beside = prediction(family, components) - start
    merge_layers(family, components)  # adapters of the other files are in the weights already
    round_weights(components.denoiser, kind)
    merged_last = prediction(family, components) - start
    del components
    again = loaded_base(family, source)
    adapt(family, again, config)
    merge_layers(family, again)
    round_weights(again.denoiser, kind)
    merged_first = prediction(family, again) - start
    left = (effect_left(effect, other) for other in (beside, merged_first, merged_last))
    return RoundedEffects(relative_difference(before, start), *left)


def effect_left(effect: Tensor, other: Tensor) -> EffectLeft:
    """Compare an effect with that on rounded weights."""
    exact, rounded = effect.double().flatten(), other.double().flatten()
    along = float(exact @ rounded)
    sizes = float(exact.norm() * rounded.norm())
    return EffectLeft(
        relative_difference(effect, other), along / sizes if sizes else 0.0, 1 - along / float(exact @ exact)
    )


def loaded_base(family: ModelFamily, source: ModelSource) -> Components:
    """Load the denoiser and the text encoders in float32. An earlier model leaves memory first."""
    gc.collect()
    return base_model(family, source, text_encoders=True)[0]


def adapt(family: ModelFamily, components: Components, config: EffectConfig, warnings: list[str] | None = None) -> None:
    """Load the files at their strengths."""
    adapters = load_adapters(
        family, components, [path for path, _ in config.adapters], [] if warnings is None else warnings
    )
    set_all_strengths(adapters, [strength for _, strength in config.adapters])


@torch.no_grad()
def round_weights(denoiser: Denoiser, kind: RoundedTo) -> None:
    """Replace the weights by the nearest ones of a number format. Raises ValueError where one is out of its range."""
    # With scales the layers are those of `model.quantization`.
    for name, layer in packable_layers(denoiser) if kind in SCALED else cast_layers(denoiser):
        weight = layer.weight
        largest = float(weight.abs().max())
        if kind in PLAIN and not largest <= torch.finfo(PLAIN[kind]).max:
            raise ValueError(f"formats: {name} reaches {largest:.3g}, too large for {kind}. Omit that format.")
        if kind in SCALED:
            packed = pack(weight.float(), SCALED[kind], double=True)
            rounded = unpack(packed, SCALED[kind], (weight.shape[0], weight.shape[1]), torch.float32)
        else:
            rounded = weight.to(PLAIN[kind]).float()
        weight.copy_(rounded)
