"""Orthogonal updates for matrices, AdamW for the rest.

A matrix moves by its momentum, all of whose singular values are made alike.

By K. Jordan et al. (2024); scaled as in arXiv 2502.16982, section 2.2, so that an update is as large as AdamW's and
takes its learning rate. torch.optim.Muon takes two-dimensional parameters alone.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial of degree five; five turns bring singular values from 0.001 to 1 near 1."""
TURNS = 5
RMS = 0.2
"""Usual root mean square of AdamW's updates, over the learning rate."""


class Muon(torch.optim.AdamW):
    """An optimizer of orthogonal updates for matrices and convolutions.

    A group with `orthogonal` False, such as embeddings, is left to AdamW, as are vectors and single rows. Processes of
    one job share the matrices among them: each computes the updates of some and sends them to the others.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the weights that have a gradient. Gradients of matrices are dropped."""
        found = [
            (parameter, group)
            for group in self.param_groups
            if group.get("orthogonal", True)
            for parameter in group["params"]
            if parameter.grad is not None and is_matrix(parameter)
        ]
        directions = [self._direction(parameter) for parameter, _ in found]
        for (parameter, group), update in zip(found, orthogonal_together(directions), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * RMS * max(update.shape) ** 0.5)
        cast("Any", super()).step()  # torch leaves its closure without a type

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """Return Nesterov's direction as (rows, columns). The momentum takes the gradient in."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it in every state that is loaded
            state["momentum"] = torch.zeros_like(parameter)
        parameter.grad = None
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM).flatten(1)


def is_matrix(parameter: Tensor) -> bool:
    """Check for several rows and columns. A convolution is (out channels, all else)."""
    return parameter.ndim >= 2 and 1 < len(parameter) < parameter.numel()


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values near 1: 0.7 to 1.2. The result is bfloat16, its singular vectors are the same."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if is_tall else matrix).bfloat16()
    wide = wide / (wide.square().sum().sqrt() + 1e-7)
    for _ in range(TURNS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide


def orthogonal_together(matrices: list[Tensor]) -> list[Tensor]:
    """Apply `orthogonal`, each process to some of the matrices.

    They are the same in all processes. The result does not depend on the number of processes.
    """
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if size == 1 or len(matrices) < size:
        return [orthogonal(matrix) for matrix in matrices]
    owners = shared_out([matrix.numel() * min(matrix.shape) for matrix in matrices], size)
    of_process = [[m for m, of in zip(matrices, owners, strict=True) if of == owner] for owner in range(size)]
    sizes = [[matrix.numel() for matrix in own] for own in of_process]
    results = [torch.empty(sum(own), dtype=torch.bfloat16, device=matrices[0].device) for own in sizes]
    torch.cat([orthogonal(matrix).flatten() for matrix in of_process[rank]], out=results[rank])
    for owner, flat in enumerate(results):
        dist.broadcast(flat.view(torch.uint8), owner)  # gloo sends no bfloat16
    parts = [iter(torch.split(flat, own)) for flat, own in zip(results, sizes, strict=True)]
    return [next(parts[owner]).view(matrix.shape) for matrix, owner in zip(matrices, owners, strict=True)]


def shared_out(costs: list[int], size: int) -> list[int]:
    """Return one of `size` processes for each cost. Their sums are alike; the dearest come first."""
    loads, owners = [0] * size, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners
