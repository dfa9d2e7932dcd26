"""Bytes of a sharded denoiser (FSDP2) on one of the processes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GRADIENTS = 2
"""Times that a block's gradients are whole: as computed, and as sent."""


@dataclass(frozen=True)
class Held:
    """A network's weights as one process holds them."""

    trained: Sequence[nn.Parameter]
    frozen: Sequence[nn.Parameter]
    gathered: int = 0
    """Bytes of what is whole for a moment in a step."""


def in_parts(network: nn.Module, denoiser: nn.Module, blocks: Sequence[nn.Module], num: int, *, reshards: bool) -> Held:
    """Cut the denoiser's weights among `num` processes. What is beside it stays whole.

    A block's weights are whole while it computes. So are those of blocks around it, and of the next, which is gathered
    meanwhile.
    """
    own = {id(parameter) for parameter in denoiser.parameters()}
    parts = [part(each, num) if id(each) in own else each for each in network.parameters()]
    groups = gathered_together(denoiser, blocks)
    weights = {module: num_bytes(group) for module, group in groups.items()}
    if reshards:
        around = {
            module: sum(size for outer, size in weights.items() if any(inner is module for inner in outer.modules()))
            for module in groups
        }
        whole = max(around.values()) + max(weights.values())
    else:
        whole = sum(weights.values()) + max(weights.values())
    gradients = max(num_bytes([each for each in group if each.requires_grad]) for group in groups.values())
    return Held(
        [each for each in parts if each.requires_grad],
        [each for each in parts if not each.requires_grad],
        whole + GRADIENTS * gradients,
    )


def part(weight: Tensor, num: int) -> nn.Parameter:
    """Return a process's part of a weight on the meta device. The first has the most rows."""
    rows = weight.shape[0] if weight.dim() else 1
    shape = (math.ceil(rows / num), *weight.shape[1:])
    return nn.Parameter(torch.empty(shape, dtype=weight.dtype, device="meta"), weight.requires_grad)


def gathered_together(denoiser: nn.Module, blocks: Iterable[nn.Module]) -> dict[nn.Module, list[nn.Parameter]]:
    """Assign each weight to its innermost block, or to the denoiser. `blocks` has outer ones first."""
    seen: set[int] = set()
    found: dict[nn.Module, list[nn.Parameter]] = {}
    for module in [*reversed(list(blocks)), denoiser]:
        found[module] = [each for each in module.parameters() if id(each) not in seen]
        seen.update(map(id, found[module]))
    return found


def num_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Count the bytes of parameters."""
    return sum(parameter.numel() * parameter.itemsize for parameter in parameters)
