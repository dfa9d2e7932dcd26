import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.optim.ema import EMA, trained_state
from tests.unit.optim.test_build import Quadratic


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_averages_are_the_same_float32_bits(dtype: torch.dtype) -> None:
    model = Quadratic().to(dtype)
    averages = [EMA.from_network(model, 0.9), EMA.from_network(model, 0.9, "cpu")]
    for step in range(1, 20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)).to(dtype))
        for average in averages:
            average.update(model, step)
    beside, host = (average.settled() for average in averages)
    assert all(value.dtype == torch.float32 for value in host.values())
    assert all(torch.equal(beside[name], host[name]) for name in trained_state(model))


def test_weights_may_change_right_after_the_update() -> None:
    """The thread reads the weights of the update, not later ones."""
    model = Quadratic()
    start = {name: value.clone() for name, value in trained_state(model).items()}
    ema = EMA.from_network(model, 0.9, "cpu")
    ema.update(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e6)
    assert all(torch.equal(value, start[name]) for name, value in ema.settled().items())


def test_what_fails_in_the_thread_is_raised() -> None:
    model = Quadratic()
    ema = EMA.from_network(model, 0.9, "cpu")
    ema.average["denoiser.weight"] = torch.zeros(3)
    ema.update(model, 1)
    with pytest.raises(RuntimeError, match="size"):
        ema.settled()


class MostBytes(TorchDispatchMode):
    """Peak bytes of living tensors that operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and func is torch.ops.aten._to_copy.default:
            self.held += made.nbytes
            self.most = max(self.most, self.held)
            weakref.finalize(made, self.release, made.nbytes)
        return made

    def release(self, num_bytes: int) -> None:
        self.held -= num_bytes


def test_an_update_holds_one_weight_in_float32_at_a_time() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(8))).bfloat16()
    ema = EMA.from_network(model, 0.9)
    with MostBytes() as counted:
        ema.update(model, 1)
    assert 0 < counted.most <= 64 * 64 * 4
