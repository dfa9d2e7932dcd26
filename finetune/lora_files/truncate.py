"""The nearest low-rank change of a layer, by its singular values."""

import torch
from torch import Tensor


@torch.no_grad()
def truncated(
    down: Tensor, up: Tensor, scale: float, rank: int | None = None, energy: float | None = None
) -> tuple[Tensor, Tensor, float]:
    """Truncate a layer's change to its largest singular values. Returns down, up and the share of the squared norm.

    The new scale is 1. With an energy the rank is the least that keeps this share. The change is never made as a whole:
    its singular values are those of the product of two triangular factors. A larger rank than the layer's own adds rows
    of zeros.
    """
    left, upper = torch.linalg.qr(up.double().flatten(1) * scale)
    right, lower = torch.linalg.qr(down.double().flatten(1).T)
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    total = values.square().sum()
    if energy is not None:
        kept = values.square().cumsum(0) / total.clamp(min=1e-300)
        rank = int((kept < energy - 1e-12).sum()) + 1 if total > 0 else 1
    assert rank is not None, "one of rank and energy is given"
    num = min(rank, len(values))
    root = values[:num].sqrt()
    new_up, new_down = (left @ u)[:, :num] * root, root[:, None] * (v @ right.T)[:num]
    share = float(values[:num].square().sum() / total) if total > 0 else 1.0
    if energy is None and rank > num:
        new_up = torch.cat([new_up, new_up.new_zeros(new_up.shape[0], rank - num)], dim=1)
        new_down = torch.cat([new_down, new_down.new_zeros(rank - num, new_down.shape[1])])
    own = new_down.shape[0]
    shaped = new_down.reshape(own, *down.shape[1:]), new_up.reshape(up.shape[0], own, *up.shape[2:])
    return shaped[0].float(), shaped[1].float(), share
