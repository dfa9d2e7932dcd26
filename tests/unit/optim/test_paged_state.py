import copy
from typing import Any

import pytest
import torch
from bitsandbytes import optim as bnb
from torch import Tensor, nn

from finetune.optim.paged_state import load_state
from finetune.optim.per_parameter import PerParameterOptimizer

MADE = "was_made_by_the_optimizer"
"""Stands for `is_paged`, which bitsandbytes sets on the buffers that it makes on a GPU."""


class MarkedBuffers(bnb.PagedAdamW8bit):
    def get_state_buffer(self, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        buffer = super().get_state_buffer(p, dtype)
        setattr(buffer, MADE, True)
        return buffer


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(size, dtype=dtype)) for size in ((80, 80), (3,))]  # 8 bits from 4,096 numbers on


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        if isinstance(optimizer, PerParameterOptimizer):
            optimizer.set_step(number)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("rounding", ["fp32", "bf16_kahan"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_resumed_paged_optimizer_has_its_own_buffers_and_continues_as_before(rounding: Any) -> None:
    def build(parameters: list[nn.Parameter]) -> tuple[Any, Any]:
        inner = MarkedBuffers([{"params": parameters, "name": "denoiser"}], lr=1e-2)
        return inner, inner if rounding == "fp32" else PerParameterOptimizer(inner, rounding, 0, in_backward=False)

    dtype = torch.float32 if rounding == "fp32" else torch.bfloat16
    straight = weights(dtype)
    _, optimizer = build(straight)
    train(optimizer, straight, range(3))
    saved, kept = copy.deepcopy(optimizer.state_dict()), [parameter.detach().clone() for parameter in straight]
    train(optimizer, straight, range(3, 6))

    resumed = [nn.Parameter(values) for values in kept]
    inner, optimizer = build(resumed)
    load_state(optimizer, saved)
    assert [hasattr(inner.state[p][name], MADE) for p in resumed for name in ("state1", "state2")] == [True] * 4
    train(optimizer, resumed, range(3, 6))
    for parameter, expected in zip(resumed, straight, strict=True):
        assert torch.equal(parameter, expected)
