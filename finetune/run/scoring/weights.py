"""The weights of scored steps, which `checkpoint.keep` does not remove."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from finetune.export.lora import KEY, lora_layers, save_diffusers_lora
from finetune.export.lycoris import KEY as LYCORIS_KEY
from finetune.export.lycoris import save_lycoris
from finetune.export.single_file import write_tensors
from finetune.export.tokens import save_tokens
from finetune.methods.lora.adapters import adapter_layers, layer_scales
from finetune.methods.tokens import token_embeddings
from finetune.optim.build import evaluation_weights
from finetune.optim.ema import trained_state
from finetune.sampling.adapters import has_strength
from finetune.session import Session

STATE_FILE = "state.safetensors"
"""All trained weights in float32 by parameter name; what a step is exported from."""


def exported_state(session: Session) -> dict[str, Tensor]:
    """Copy the weights of an export to the CPU in float32. They are averages if there are any."""
    tuned = session.tuned
    with contextlib.nullcontext() if tuned.ema else evaluation_weights(tuned.optimizer, session.run.config.optim):
        weights = tuned.ema.settled() if tuned.ema else trained_state(tuned.network)
        return {name: value.to("cpu", torch.float32, copy=True) for name, value in weights.items()}


def save_weights(session: Session, state: Mapping[str, Tensor], step: int, folder: Path) -> None:
    """Write a scored step's weights, and files of adapters and tokens.

    diffusers loads these. A whole model, and adapters that start from a part of its weights (pissa, olora), have no
    small file; they are exported from the state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(dict(state), {"step": str(step)}, folder / STATE_FILE)
    run, network = session.run, session.tuned.network
    embeddings = token_embeddings(network)
    rows = {f"{name}.rows" for name in embeddings}
    adapters = {name: value for name, value in state.items() if name not in rows}
    if adapters and not session.model.alters_weights:
        if all(KEY.fullmatch(name) for name in adapters):
            save_diffusers_lora(run.family, session.components, lora_layers(adapters, layer_scales(network)), folder)
        elif all(LYCORIS_KEY.fullmatch(name) for name in adapters):
            save_lycoris(
                *(run.family, session.components.denoiser, adapters, layer_scales(network)),
                metadata={"ss_steps": str(step)},
                dtype="fp32",
                path=folder / f"{run.config.output.export_name}-{step:06d}.safetensors",
            )
    if embeddings:
        save_token_files(session, state, folder)


def save_token_files(session: Session, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the new tokens of a step."""
    tokens = getattr(session.run.config, "tokens")  # noqa: B009  (recipes without tokens lack the section)
    tables = [state[f"{name}.rows"].split(tokens.num_vectors) for name in token_embeddings(session.tuned.network)]
    vectors = dict(zip(tokens.names, zip(*tables, strict=True), strict=True))
    save_tokens(session.run.family, vectors, {name: {} for name in vectors}, folder / "embeddings")


def read_state(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Read the weights of a scored step, in the network's order."""
    path = folder / STATE_FILE
    try:
        found = safetensors.torch.load_file(path)
        return {name: found[name] for name in trained_state(network)}
    except (OSError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"evaluate.export: the weights of a scored step in {path} do not open ({error}). Restore the file, or use "
            "--evaluate.export last."
        ) from error


def has_strengths(session: Session) -> bool:
    """True if programs can change the strength of all that trains. Lengths of DoRA, rotations and
    weights that were taken out of the model (pissa, olora) do not scale so."""
    layers = [layer for _, layer in adapter_layers(session.tuned.network)]
    is_dora = any(getattr(layer, "use_dora", {}).get("default") for layer in layers)
    scales = all(has_strength(layer) for layer in layers)
    return bool(layers) and scales and not is_dora and not session.model.alters_weights


@contextlib.contextmanager
def at_strength(network: nn.Module, strength: float) -> Iterator[None]:
    """Scale the adapters within the context."""
    scalings = [cast("dict[str, float]", layer.scaling) for _, layer in adapter_layers(network)]
    before = [scaling["default"] for scaling in scalings]
    for scaling, scale in zip(scalings, before, strict=True):
        scaling["default"] = scale * strength
    try:
        yield
    finally:
        for scaling, scale in zip(scalings, before, strict=True):
            scaling["default"] = scale
