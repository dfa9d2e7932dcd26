"""Exported files, reloaded as a user would; the denoiser's outputs are compared.

Everything runs in float32 on the CPU, with one copy of the base model in memory at a time.
"""

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from diffusers.utils import logging as diffusers_logging
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn

from finetune.export.fused import file_layers
from finetune.export.lycoris import apply_lycoris
from finetune.export.peft_folder import load_peft_folders
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.models.family import Components, ModelFamily, ModelSource, Network
from finetune.models.interfaces import TextEncoder
from finetune.models.parts import Part, load_sequentially
from finetune.models.prompts import Prompts, whole_sizes

TOLERANCE = 1e-3
"""Largest relative difference of the denoiser's output between a file and the trained weights."""

PROMPT = "a photograph of a red house by the sea"
LATENT_SIZE = 32
TIMESTEP = 500


def reloaded_differences(
    family: ModelFamily,
    source: ModelSource,
    trained: Tensor,
    expected: set[str],
    paths: Sequence[Path],
    *,
    text_encoders: bool = True,
) -> dict[Path, float]:
    """Return ||trained - reloaded|| / ||trained|| of the denoiser's output by path.

    `trained` is the `prediction` of the network that was trained, `expected` the names of its adapted layers. Each path
    is loaded into a fresh base model: diffusers' and sd-scripts' layouts by `load_lora_weights`, LyCORIS' layout by its
    formulas, and sd-scripts' too where diffusers does not read all of it, a folder by peft. A file with an unused
    layer, or that adapts others, is a ValueError. Without `text_encoders` the files adapt none, and these are dropped
    before the denoiser is loaded.
    """
    found = {}
    with torch.random.fork_rng(devices=[]):
        for path in paths:
            gc.collect()
            components, prompts = base_model(family, source, text_encoders=text_encoders)
            beside = layers_joined_with(family, components, expected)
            adapted = load_adapters(family, components, path, expected)
            refuse_other_layers(path, adapted if path.is_dir() or is_diffusers(path) else adapted - beside, expected)
            found[path] = relative_difference(trained, prediction(family, components, prompts))
            del components
    return found


def base_model(family: ModelFamily, source: ModelSource, *, text_encoders: bool) -> tuple[Components, Prompts | None]:
    """Load the parts of the base model that a prediction needs. These are the denoiser, and the text encoders or else
    the encoded PROMPT; other parts have no weights."""
    prompts: list[Prompts] = []
    tokenizers = family.tokenizers(source)

    def look(part: Part, modules: Sequence[nn.Module]) -> None:
        if part == "text_encoders" and not text_encoders:
            with torch.no_grad():
                encoders = cast("Sequence[TextEncoder]", modules)
                prompts.append(family.encode_prompts(encoders, family.tokenize(tokenizers, [PROMPT])))

    keep: tuple[Part, ...] = ("denoiser", "text_encoders") if text_encoders else ("denoiser",)
    parts = load_sequentially(family, source, look, keep)
    return parts.components, prompts[0] if prompts else None


def require_equal(differences: Mapping[Path, float]) -> None:
    """Refuse all files that differ beyond TOLERANCE. A difference that is not a number counts too."""
    wrong = [
        f"export: {path.name} does not reproduce the trained model: its output differs by {difference:.2g} relative, "
        f"expected at most {TOLERANCE:g}. If output.dtype is bf16 or fp16, run the same command with --output.dtype "
        "fp32; otherwise do not use the file and report this. The checkpoints hold all that was trained."
        for path, difference in differences.items()
        if not difference <= TOLERANCE
    ]
    if wrong:
        raise ValueError("\n".join(wrong))


def load_adapters(family: ModelFamily, components: Components, path: Path, expected: set[str]) -> set[str]:
    """Load exported files into the fresh base model, as their readers do. Return the adapted layers' names."""
    network = Network(family, components.denoiser, components.text_encoders)
    if path.is_dir():
        load_peft_folders(family, components, path)
    elif is_lycoris(path) or not (is_diffusers(path) or diffusers_reads_single_file(family, components, expected)):
        return apply_lycoris(family, network, path)
    else:
        with errors_only():
            family.pipeline(components).load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True)
    # A folder is loaded through a wrapper, after which the layers have the same names as before.
    return {name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


def diffusers_reads_single_file(family: ModelFamily, components: Components, layers: set[str]) -> bool:
    """Check whether diffusers reads a single file of these layers completely."""
    names = [name.partition(".")[2] for name in sorted(layers) if name.startswith("denoiser.")]
    return family.diffusers_reads_single_file(components.denoiser, names)


def layers_joined_with(family: ModelFamily, components: Components, layers: set[str]) -> set[str]:
    """Return other layers that share a file's layer with these. They are read, with a change of zero."""
    linear = [f"denoiser.{n}" for n, layer in components.denoiser.named_modules() if isinstance(layer, nn.Linear)]
    held = file_layers(family, components.denoiser, linear).values()
    return {name for places in held if not layers.isdisjoint(places) for name in places} - layers


def is_diffusers(path: Path) -> bool:
    """Recognise a file in diffusers' layout."""
    return path.name == DIFFUSERS_FILE


def is_lycoris(path: Path) -> bool:
    """Recognise a file whose layers are of another kind than LoRA."""
    with safe_open(path, framework="pt") as file:
        return any(key.endswith((".diff", ".hada_w1_a", ".lokr_w1")) for key in file.keys())  # noqa: SIM118


def refuse_other_layers(path: Path, adapted: set[str], expected: set[str]) -> None:
    """Raise a ValueError where not exactly the expected layers were adapted."""
    if adapted != expected:
        raise ValueError(
            f"export: {path.name} adapts {len(adapted & expected)} of {len(expected)} trained layers and "
            f"{len(adapted - expected)} others, e.g. {min(adapted ^ expected)}. Do not use the file and report this; "
            "the checkpoints hold all that was trained."
        )


@torch.no_grad()
def prediction(family: ModelFamily, components: Components, prompts: Prompts | None = None) -> Tensor:
    """Return the denoiser's output [1 C H W] for fixed inputs. Latent, timestep and prompt are fixed; `prompts` is the
    encoded prompt. Parts are float32 on the CPU."""
    if prompts is None:
        for text_encoder in components.text_encoders:
            text_encoder.eval()
        prompts = family.encode_prompts(components.text_encoders, family.tokenize(components.tokenizers, [PROMPT]))
    return prediction_for(family, components, prompts)


@torch.no_grad()
def prediction_for(family: ModelFamily, components: Components, prompts: Prompts) -> Tensor:
    """Return the denoiser's output [1 C H W] for fixed inputs. Parts are float32 on the CPU."""
    shape = (1, components.vae.config.latent_channels, LATENT_SIZE, LATENT_SIZE)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    more = family.filling_channels(components)
    if more > 0:
        filling = torch.randn(1, more, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(2))
        prompts = replace(prompts, filling=filling)
    pixels = LATENT_SIZE * family.pixels_per_latent(components.vae)
    prompts = replace(prompts, sizes=whole_sizes(1, pixels, pixels))
    return family.denoise(components.denoiser.eval(), noisy, torch.tensor([TIMESTEP]), prompts)


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """Return ||reference - other|| / ||reference||."""
    return float((reference.double() - other.double()).norm() / reference.double().norm())


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Silence diffusers' warnings about parts that a file does not adapt. They are checked here anyway."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
