"""Reloads exported files as a user would and compares the denoiser's output with that of the trained weights.

Everything runs in float32 on the CPU, with one copy of the base model in memory at a time.
"""

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from finetune.export.lora import lora_layers
from finetune.models.base import Components, ModelFamily, ModelSource, Network

TOLERANCE = 1e-3
"""Largest relative difference of the denoiser's output between a file and the trained weights."""

PROMPT = "a photograph of a red house by the sea"
LATENT_SIZE = 32
TIMESTEP = 500


def lora_differences(
    family: ModelFamily,
    source: ModelSource,
    state: Mapping[str, Tensor],
    *,
    rank: int,
    alpha: float,
    files: Sequence[Path],
) -> dict[str, float]:
    """Returns ||trained - file|| / ||trained|| of the denoiser's output by file name.

    The trained side is the fresh base model with `state` attached directly; each file goes through `load_lora_weights`
    into another fresh copy. A file of which a layer was left unused, or that adapts others, is a ValueError.
    """
    with torch.random.fork_rng(devices=[]):
        trained = trained_prediction(family, source, state, rank=rank, alpha=alpha)
        expected = {f"{layer.part}.{layer.module}" for layer in lora_layers(state)}
        return {
            file.name: relative_difference(trained, file_prediction(family, source, file, expected)) for file in files
        }


def require_equal(differences: Mapping[str, float]) -> None:
    """Raises a ValueError that names every file whose difference is above TOLERANCE or not a number."""
    wrong = [
        f"export: {name} does not reproduce the trained model: its output differs by {difference:.2g} relative, "
        f"expected at most {TOLERANCE:g}. If output.dtype is bf16 or fp16, run the same command with --output.dtype "
        "fp32; otherwise do not use the file and report this. The checkpoints hold all that was trained."
        for name, difference in differences.items()
        if not difference <= TOLERANCE
    ]
    if wrong:
        raise ValueError("\n".join(wrong))


def trained_prediction(
    family: ModelFamily, source: ModelSource, state: Mapping[str, Tensor], *, rank: int, alpha: float
) -> Tensor:
    """Returns the prediction of the fresh base model with the trained state attached through PEFT."""
    components = family.load(source)
    network = Network(family, components.denoiser, components.text_encoders)
    layers = lora_layers(state)
    for part in dict.fromkeys(layer.part for layer in layers):
        names = [layer.module for layer in layers if layer.part == part]
        # PEFT annotates alpha as int but only divides it by the rank.
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)  # pyright: ignore[reportArgumentType]
        inject_adapter_in_model(config, network.get_submodule(part))
    keys = network.load_state_dict(dict(state), strict=False)
    left_out = [key for key in keys.missing_keys if ".lora_" in key]
    if keys.unexpected_keys or left_out:
        raise ValueError(
            f"export: the trained state does not fit the base model: {(keys.unexpected_keys + left_out)[:3]}."
        )
    return prediction(family, components)


def file_prediction(family: ModelFamily, source: ModelSource, file: Path, expected: set[str]) -> Tensor:
    """Returns the fresh base model's prediction with a file loaded by diffusers into exactly the expected layers."""
    gc.collect()
    components = family.load(source)
    pipeline = family.pipeline(components)
    with errors_only():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True)
    network = Network(family, components.denoiser, components.text_encoders)
    adapted = {name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
    if adapted != expected:
        raise ValueError(
            f"export: {file.name} adapts {len(adapted & expected)} of {len(expected)} trained layers and "
            f"{len(adapted - expected)} others, e.g. {min(adapted ^ expected)}. Do not use the file and report this; "
            "the checkpoints hold all that was trained."
        )
    return prediction(family, components)


@torch.no_grad()
def prediction(family: ModelFamily, components: Components) -> Tensor:
    """Returns the denoiser's output [1 C H W] for a fixed latent, timestep and prompt; parts are float32 on the CPU."""
    for part in (components.denoiser, *components.text_encoders):
        part.eval()
    shape = (1, components.vae.config.latent_channels, LATENT_SIZE, LATENT_SIZE)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    prompts = family.encode_prompts(components.text_encoders, family.tokenize(components.tokenizers, [PROMPT]))
    return family.denoise(components.denoiser, noisy, torch.tensor([TIMESTEP]), prompts)


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """Returns ||reference - other|| / ||reference||."""
    return float((reference.double() - other.double()).norm() / reference.double().norm())


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Silences diffusers' warnings: it warns of every part that a file does not adapt, which is checked here anyway."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
