"""The weights of scored steps, which `checkpoint.keep` does not remove."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from finetune.export.single_file import write_tensors
from finetune.methods.lora.adapters import adapter_layers
from finetune.optim.ema import trained_state
from finetune.run.saving.adapter_files import write_adapter_files
from finetune.sampling.adapters import has_strength
from finetune.session import Session

STATE_FILE = "state.safetensors"
"""All trained weights in float32 by parameter name; what a step is exported from."""


def save_weights(session: Session, state: Mapping[str, Tensor], step: int, folder: Path) -> None:
    """Write a scored step's weights, and files of adapters and tokens.

    A whole model, and adapters that start from a part of its weights (pissa, olora), have no small file; they are
    exported from the state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(dict(state), {"step": str(step)}, folder / STATE_FILE)
    write_adapter_files(session, state, step, folder)


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
