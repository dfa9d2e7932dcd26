"""Weights changed by the layers of adapter files, by the published formulas."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from finetune.export.lycoris import weight_change
from finetune.plurals import first_few, plural

Pieces = Mapping[str, Tensor]
"""The tensors of one layer by the ends of their names, such as lora_up.weight."""
TUCKER = "i j ..., i p, j r -> p r ..."
"""LyCORIS' order: core [I J ...], outputs [I P], inputs [J R] (arXiv 2309.14859, section 3.1)."""


def change_of(pieces: Pieces) -> Tensor:
    """Return a weight's change in float32, perhaps as a matrix. Raises ValueError for unknown kinds."""
    kept = {name: value.float() for name, value in pieces.items() if name not in ("dora_scale", "scalar", "diff_b")}
    scalar = pieces["scalar"].float() if "scalar" in pieces else torch.tensor(1.0)
    match kept:
        case {"lora_mid.weight": core, "lora_up.weight": up, "lora_down.weight": down}:
            scale = kept.get("alpha", torch.tensor(float(down.shape[0]))) / down.shape[0]
            change = scale * torch.einsum(TUCKER, core, up.flatten(1).T, down.flatten(1))
        case {"hada_t1": t1, "hada_t2": t2, "hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}:
            scale = kept.get("alpha", torch.tensor(float(b1.shape[0]))) / b1.shape[0]
            change = scale * torch.einsum(TUCKER, t1, a1, b1) * torch.einsum(TUCKER, t2, a2, b2)
        case {"lokr_w1": _} | {"lokr_w1_a": _}:
            change = kronecker_change(kept)
        case _:
            change = weight_change(with_alpha(kept))
    return scalar * change


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a file with NaN or infinite numbers."""
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not all_finite(value)]
    if broken:
        raise ValueError(
            f"{path.name}: {plural(len(broken), 'tensor')} of {len(tensors)} with NaN or infinite numbers: "
            f"{first_few(broken)}. Its training diverged, or the file is damaged. Use an earlier file."
        )


def all_finite(value: Tensor) -> bool:
    """Check that all numbers are finite. Formats of 8 bits are compared as float32."""
    return bool((value.float() if value.element_size() == 1 else value).isfinite().all())


def kronecker_change(pieces: Pieces) -> Tensor:
    """Return LoKr's change. Each factor is whole, a product, or with a core; alpha counts where one is not whole."""
    scale = torch.tensor(1.0)
    factors: list[Tensor] = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in pieces:
            factors.append(pieces[name])
            continue
        left, right = pieces[f"{name}_a"], pieces[f"{name}_b"]
        scale = pieces.get("alpha", torch.tensor(float(right.shape[0]))) / right.shape[0]
        core = pieces.get("lokr_t2") if name == "lokr_w2" else None
        factors.append(left @ right if core is None else torch.einsum(TUCKER, core, left, right))
    return scale * torch.kron(factors[0], factors[1].flatten(1))


def with_alpha(pieces: Pieces) -> Pieces:
    """Add the usual alpha, the rank, where a file has none."""
    for name in ("lora_down.weight", "hada_w1_b"):
        if name in pieces and "alpha" not in pieces:
            return {**pieces, "alpha": torch.tensor(float(pieces[name].shape[0]))}
    return pieces


def changed_weight(weight: Tensor, change: Tensor, scale: Tensor | None, strength: float) -> Tensor:
    """Return a weight in float32 with a change of some strength. `scale` are DoRA's lengths of its rows or columns
    (arXiv 2402.09353, equation 5): the new direction gets them, and the strength counts for all of that change."""
    weight = weight.float()
    if scale is None:
        return weight + strength * change.reshape(weight.shape)
    whole = weight + change.reshape(weight.shape)
    lengths = scale.float().reshape(*scale.shape, *([1] * (weight.dim() - scale.dim())))
    kept = tuple(axis for axis, size in enumerate(lengths.shape) if size == 1)
    return weight + strength * (whole * (lengths / whole.norm(dim=kept, keepdim=True)) - weight)
