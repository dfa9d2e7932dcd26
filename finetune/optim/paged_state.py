"""The state of bitsandbytes' optimizers on resume, paged where it was. bitsandbytes' own `load_state_dict` (0.46 to
0.49) moves all of it to the device as plain tensors, but a paged optimizer is chosen because it does not fit there."""

import sys
from typing import Protocol, cast

import torch
from torch import Tensor

MOMENTS = ("state1", "state2")
"""The tensors that bitsandbytes pages."""


class Paged(Protocol):
    """An optimizer of bitsandbytes. These members are its own."""

    is_paged: bool

    def load_state_dict(self, state_dict: dict[str, object], move_to_device: bool) -> None: ...

    def get_state_buffer(self, p: Tensor, dtype: torch.dtype) -> Tensor: ...


def load_state(optimizer: torch.optim.Optimizer, state_dict: dict[str, object]) -> None:
    """Load a state dict into any optimizer."""
    load_beside(optimizer, state_dict)
    place_state(optimizer)


def load_beside(optimizer: torch.optim.Optimizer, state_dict: dict[str, object]) -> None:
    """Load the state. A paged optimizer's stays in host memory until `place_state`."""
    paged = cast("Paged", optimizer)
    if is_from_bitsandbytes(optimizer) and paged.is_paged:
        paged.load_state_dict(state_dict, move_to_device=False)
    else:
        optimizer.load_state_dict(state_dict)


@torch.no_grad()
def place_state(optimizer: torch.optim.Optimizer) -> None:
    """Move loaded state to where bitsandbytes would have created it. Moments of large weights are in paged memory,
    everything else is on the weight's device."""
    if not is_from_bitsandbytes(optimizer):
        return
    from bitsandbytes.utils import sync_gpu

    maker = cast("Paged", optimizer)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name in MOMENTS and maker.is_paged:
                state[name] = maker.get_state_buffer(parameter, dtype=value.dtype)
                sync_gpu(parameter)  # the buffer is filled with zeros by then, and is written to from the host
                state[name].copy_(value)
            elif isinstance(value, Tensor):
                state[name] = value.to(parameter.device)


def is_from_bitsandbytes(optimizer: torch.optim.Optimizer) -> bool:
    """Recognize an optimizer of bitsandbytes without importing that."""
    module = sys.modules.get("bitsandbytes.optim.optimizer")
    return module is not None and isinstance(optimizer, module.Optimizer8bit)
