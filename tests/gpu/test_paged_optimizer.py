import pytest
import torch
from bitsandbytes import optim as bnb
from torch import nn

from finetune.optim.paged_state import load_state


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_moments_are_paged_again_with_the_same_values() -> None:
    weight = nn.Parameter(torch.randn(400, 400, device="cuda"))
    first = bnb.PagedAdamW8bit([weight])
    weight.grad = torch.randn_like(weight)
    first.step()
    other = nn.Parameter(weight.detach().clone())
    second = bnb.PagedAdamW8bit([other])
    load_state(second, first.state_dict())
    for name in ("state1", "state2"):
        assert second.state[other][name].is_paged
        assert torch.equal(second.state[other][name], first.state[weight][name])
    for optimizer, parameter in ((first, weight), (second, other)):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.equal(weight, other)
