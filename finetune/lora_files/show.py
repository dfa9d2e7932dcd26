"""The contents of a file of adapters, and its readers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors
import torch
from torch import Tensor

from finetune.lora_files.options import instead_of_folder
from finetune.plurals import first_few, plural
from finetune.sampling.adapter_pieces import piece_of, refuse_malformed
from finetune.sampling.other_files import other_kind, why_unreadable
from finetune.sampling.weight_changes import change_of

TRAINED = {
    "ss_sd_model_name": "base model",
    "ss_base_model_version": "architecture",
    "ss_steps": "steps",
    "ss_learning_rate": "learning rate",
    "ss_optimizer": "optimizer",
    "ss_num_train_images": "images",
    "ss_resolution": "resolution",
    "modelspec.title": "title",
    "modelspec.trigger_phrase": "trigger",
    "modelspec.usage_hint": "use",
    "modelspec.license": "licence",
}
"""Fields of the metadata that are shown, and their names."""


@dataclass(frozen=True)
class Layer:
    """One layer of a file."""

    name: str
    kind: str
    """LoRA, DoRA, LoHa, LoKr or difference."""
    rank: int | None
    alpha: float | None
    norm: float
    """Frobenius norm of the weight's change at strength 1; of DoRA that of its direction."""


@dataclass(frozen=True)
class Layout:
    """A way of naming layers, and the programs that read it."""

    name: str
    readers: str


SD_SCRIPTS = Layout("sd-scripts", "A1111, Forge, ComfyUI, sd-scripts; diffusers where it knows all layers")
DIFFUSERS = Layout("diffusers", "diffusers (load_lora_weights), ComfyUI")
ORIGINAL = Layout("the original model", "ComfyUI, diffusers where it converts this model")
PEFT = Layout("peft", "peft, diffusers (load_lora_adapter)")
UNKNOWN = Layout("unknown", "not known")


def show(path: Path) -> list[str]:
    """Describe a file in lines. Raises ValueError for one that is not readable or holds no adapters."""
    tensors, metadata = read(path)
    refuse_malformed(path, tensors)
    layers = list(layers_of(tensors))
    if not layers:
        if (other := other_kind(tensors)) is not None:
            raise ValueError(f"file: {path} is {other[0]}, which is not read. {other[1]}")
        raise ValueError(
            f"file: {path} has {plural(len(tensors), 'tensor')} and no adapters, e.g. {min(tensors, default='none')}. "
            "Expected a file of LoRA, LoHa, LoKr or weight differences."
        )
    layout = layout_of(list(tensors))
    kinds = Counter(layer.kind for layer in layers)
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in tensors.values()})
    lines = [
        f"{path.name}: {path.stat().st_size:,} bytes, {', '.join(dtypes)}",
        f"  layout: that of {layout.name}, read by {layout.readers}",
        f"  layers: {', '.join(f'{num} {kind}' for kind, num in kinds.most_common())}; {parts_text(layers)}",
        "  "
        + "; ".join(f"{name}: {spread_text([vars(layer)[name] for layer in layers])}" for name in ("rank", "alpha")),
    ]
    lines += norm_lines(layers)
    known = [f"{name} {metadata[key]}" for key, name in TRAINED.items() if metadata.get(key) not in (None, "", "None")]
    lines.append(f"  metadata: {'; '.join(known)}" if known else "  metadata: none that says how it was trained")
    if unread := sorted(set(tensors) - read_names(tensors)):
        lines.append(f"  not understood: {plural(len(unread), 'tensor')}: {first_few(unread)}")
    return lines


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a file."""
    if path.is_dir():
        raise ValueError(f"file: {path} is a folder, expected a safetensors file. {instead_of_folder(path)}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        why = why_unreadable(path, error)
        raise ValueError(f"file: {path} is not a readable safetensors file ({why}). Use another file.") from error


def layers_of(tensors: Mapping[str, Tensor]) -> Iterator[Layer]:
    """Yield the layers of a file in their order."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if (placed := piece_of(key)) is not None:
            grouped.setdefault(placed[0], {})[placed[1]] = value
    for name, pieces in grouped.items():
        if set(pieces) - {"alpha", "scalar", "dora_scale"}:
            yield layer_of(name, pieces)


def read_names(tensors: Mapping[str, Tensor]) -> set[str]:
    """List the tensors that are pieces of layers."""
    return {key for key in tensors if piece_of(key) is not None}


def layer_of(name: str, pieces: Mapping[str, Tensor]) -> Layer:
    """Describe one layer. Raises ValueError where pieces are missing."""
    down = next((pieces[key] for key in ("lora_down.weight", "hada_w1_b", "lokr_w2_b") if key in pieces), None)
    rank = None if down is None or not down.ndim else down.shape[0]
    if "lora_down.weight" in pieces:
        kind = "DoRA" if "dora_scale" in pieces else "LoRA"
    elif any(key.startswith("hada") for key in pieces):
        kind = "LoHa"
    else:
        kind = "LoKr" if any(key.startswith("lokr") for key in pieces) else "difference"
    alpha = float(pieces["alpha"]) if "alpha" in pieces else None if rank is None else float(rank)
    try:
        norm = change_norm({key: value for key, value in pieces.items() if key != "dora_scale"})
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"file: the layer {name} is not complete ({error}). Copy the file again.") from error
    return Layer(name, kind, rank, alpha, norm)


def change_norm(pieces: Mapping[str, Tensor]) -> float:
    """Compute the Frobenius norm of a change. That of a product of two matrices never makes the whole change."""
    if set(pieces) <= {"lora_up.weight", "lora_down.weight", "alpha"}:
        up, down = (pieces[f"lora_{name}.weight"].double().flatten(1) for name in ("up", "down"))
        if up.shape[1] == down.shape[0]:
            alpha = float(pieces["alpha"]) if "alpha" in pieces else float(down.shape[0])
            squared = torch.sum((up.T @ up) * (down @ down.T)).clamp(min=0)
            return float(squared.sqrt()) * abs(alpha) / down.shape[0]
    if set(pieces) == {"diff_b"}:
        return float(pieces["diff_b"].double().norm())
    return float(change_of(pieces).double().norm())


def layout_of(keys: Sequence[str]) -> Layout:
    """Recognise the layout by the beginnings of names."""
    first = next((key for key in keys if piece_of(key) is not None), "")
    if first.startswith(("lora_unet_", "lora_te", "lora_transformer_", "lycoris_")):
        return SD_SCRIPTS
    if first.startswith(("unet.", "transformer.", "text_encoder")):
        return DIFFUSERS
    if first.startswith(("diffusion_model.", "model.diffusion_model.")):
        return ORIGINAL
    return PEFT if first.startswith("base_model.model.") else UNKNOWN


def parts_text(layers: Sequence[Layer]) -> str:
    """Count the layers of text encoders and of the denoiser."""
    num = sum(layer.name.startswith(("lora_te", "text_encoder")) for layer in layers)
    return f"{len(layers) - num} in the denoiser, {num} in text encoders"


def spread_text(values: Sequence[float | None]) -> str:
    """Show numbers that are mostly alike: the commonest, with the others' range."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    common, _ = Counter(known).most_common(1)[0]
    low, high = min(known), max(known)
    return f"{common:g}" if low == high else f"{common:g} ({low:g} to {high:g})"


def norm_lines(layers: Sequence[Layer]) -> list[str]:
    """Show the sizes of changes, and name the largest. Zero and not finite ones are named too."""
    ordered = sorted(layers, key=lambda layer: -layer.norm if layer.norm == layer.norm else float("-inf"))
    median = cast("float", torch.tensor([layer.norm for layer in layers]).median().item())
    largest = ", ".join(f"{layer.name} {layer.norm:.3g}" for layer in ordered[:3])
    lines = [f"  norm of a layer's change: median {median:.3g}; largest: {largest}"]
    if empty := [layer.name for layer in layers if layer.norm == 0]:
        lines.append(f"  warning: {plural(len(empty), 'layer')} without a change: {first_few(empty)}")
    if broken := [layer.name for layer in layers if layer.norm != layer.norm or layer.norm == float("inf")]:
        lines.append(f"  warning: {plural(len(broken), 'layer')} not finite: {first_few(broken)}")
    return lines
