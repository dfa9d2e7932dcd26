"""Start values of A and B: parts of the weight, or orthogonal.

peft has these for linear layers; here a convolution is the matrix [outputs, inputs x kernel], as in its update.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Start = Literal["orthogonal", "pissa", "olora"]


class AdapterLayer(Protocol):
    """A layer of peft. A and B are those of LoRA; oft has no scaling."""

    lora_A: Mapping[str, nn.Linear | nn.Conv2d]
    lora_B: Mapping[str, nn.Linear | nn.Conv2d]
    scaling: Mapping[str, float]

    def get_base_layer(self) -> nn.Linear | nn.Conv2d: ...

    def merge(self) -> None: ...


@torch.no_grad()
def set_start(layer: AdapterLayer, start: Start, name: str) -> None:
    """Set A and B of peft's LoRA layer. pissa and olora subtract their scaled product from the layer's weight. The
    global random state is used, as for peft's own starts."""
    weight = layer.get_base_layer().weight
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    rank, scale = down.shape[0], layer.scaling["default"]
    matrix = weight.float().flatten(1)
    if start != "orthogonal" and rank > min(matrix.shape):
        raise ValueError(
            f"lora.rank: got {rank} with init {start}, but {name} is {matrix.shape[0]} x {matrix.shape[1]}, which has "
            f"no more than {min(matrix.shape)} directions. Lower lora.rank, or that layer's in lora.rank_pattern."
        )
    a, b = orthogonal_factors(matrix, rank, name) if start == "orthogonal" else weight_factors(matrix, rank, start)
    if start == "pissa":  # the update is multiplied by the scale; OLoRA takes that multiple out of the weight instead
        a, b = a / scale**0.5, b / scale**0.5
    if start != "orthogonal":
        weight.copy_((matrix - scale * (b @ a)).reshape(weight.shape))
    down.copy_(a.reshape(down.shape))
    up.copy_(b.reshape(up.shape))


def weight_factors(matrix: Tensor, rank: int, start: Start) -> tuple[Tensor, Tensor]:
    """Split a part of the matrix into A and B. pissa: A = sqrt(S) V^T and B = U sqrt(S) of the `rank` largest singular
    values (PiSSA, arXiv 2404.02948, equations 2 and 3). olora: B = Q and A = R, the first `rank` columns and rows of
    the QR decomposition (OLoRA, arXiv 2406.01775, section 3)."""
    if start == "pissa":
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        root = s[:rank].sqrt()
        return root[:, None] * vt[:rank], u[:, :rank] * root
    q, r = torch.linalg.qr(matrix)
    return r[:rank], q[:, :rank]


def orthogonal_factors(matrix: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor]:
    """Return A and B whose product is zero up to rounding. They are normal numbers in the odd and the even half of a
    random basis of the rank's space. https://datta0.github.io/posts/rethink-lora-init/#orthogonal-initialisation, with
    peft's factor of 1/10."""
    if rank % 2:
        raise ValueError(f"lora.init: orthogonal needs an even rank, but {name} has {rank}. Change lora.rank.")
    outputs, inputs = matrix.shape
    basis, _ = torch.linalg.qr(torch.randn(rank, rank))
    a = (torch.randn(inputs, rank // 2) @ basis[0::2]).T / 10
    b = (torch.randn(outputs, rank // 2) @ basis[1::2]) / 10
    return a, b
