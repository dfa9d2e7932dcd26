"""Weights in parts on several processes (torch's DTensor), beside whole ones.

Without sharding every function here returns what it was given.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

DISTRIBUTED = cast("Any", torch.distributed)
FOREACH = cast("Any", torch)
LINALG = cast("Any", torch.linalg)


def local(value: Tensor) -> Tensor:
    """Return this process's part. It shares memory with the whole."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Gather a tensor. All processes take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_like(value: Tensor, other: Tensor) -> Tensor:
    """Cut a whole tensor as another one is sharded. Nothing is exchanged."""
    if isinstance(value, DTensor) or not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def shares(sizes: Mapping[str, int], num: int) -> dict[str, int]:
    """Assign each name to one of `num` processes. Sizes in bytes add up to about the same."""
    total, before = max(1, sum(sizes.values())), 0
    found: dict[str, int] = {}
    for name, size in sizes.items():
        found[name] = min(num - 1, before * num // total)
        before += size
    return found


def own_share(tensors: Mapping[str, Tensor], rank: int, num: int) -> dict[str, Tensor]:
    """Gather tensors one by one; keep this process's share on the CPU. All processes take part."""
    owners = shares({name: value.numel() * value.element_size() for name, value in tensors.items()}, num)
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        gathered = whole(value)
        if owners[name] == rank:
            found[name] = gathered.cpu()
    return found


def own_share_of_state(state_dict: Mapping[str, Any], rank: int, num: int) -> dict[str, object]:
    """Gather an optimizer's state weight by weight, and keep this process's share. All processes take part."""
    states: dict[int, dict[str, Any]] = state_dict["state"]
    owners = shares({str(number): num_bytes(state) for number, state in states.items()}, num)
    found = {}
    for number, state in states.items():
        gathered = {key: whole(value) if isinstance(value, Tensor) else value for key, value in state.items()}
        if owners[str(number)] == rank:
            found[number] = {key: v.cpu() if isinstance(v, Tensor) else v for key, v in gathered.items()}
    return {**state_dict, "state": found}


def num_bytes(state: Mapping[str, Any]) -> int:
    """Return the bytes of one weight's state, of all processes."""
    return sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))


def state_in_parts(state_dict: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """Cut an optimizer's whole state as its weights are sharded."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {key: part_like(v, weights[number]) if isinstance(v, Tensor) else v for key, v in state.items()}
        for number, state in state_dict["state"].items()
    }
    return {**state_dict, "state": cut}


@torch.no_grad()
def average_replicated(parameters: Sequence[nn.Parameter], num: int) -> None:
    """Average over `num` processes the gradients of weights that each holds whole."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            DISTRIBUTED.all_reduce(parameter.grad)
            parameter.grad.div_(num)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale gradients so that the norm of all is at most `max_norm`. Returns that norm before, the same on every
    process."""
    sharded = list(gradients(parameters, sharded=True))
    replicated = list(gradients(parameters, sharded=False))
    device = next(iter(sharded + replicated)).device
    total = sum_of_squares(sharded, device)
    DISTRIBUTED.all_reduce(total)
    norm = (total + sum_of_squares(replicated, device)).sqrt()
    if max_norm is not None:
        FOREACH._foreach_mul_(sharded + replicated, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gradients(parameters: Sequence[nn.Parameter], *, sharded: bool) -> Iterator[Tensor]:
    """Yield this process's part of the gradients of one kind of weights."""
    for parameter in parameters:
        if parameter.grad is not None and isinstance(parameter, DTensor) == sharded:
            yield local(parameter.grad)


def sum_of_squares(values: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the sum of the squares of all values [] in float32."""
    if not values:
        return torch.zeros((), device=device)
    return torch.stack([LINALG.vector_norm(value, dtype=torch.float32) for value in values]).square().sum()
