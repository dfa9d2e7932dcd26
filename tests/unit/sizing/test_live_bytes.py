import pytest
import torch
from torch import nn
from torch.nn import functional

from finetune.sizing.autocast import MetaAutocast
from finetune.sizing.live_bytes import LiveBytes


def test_what_is_freed_no_longer_counts() -> None:
    with LiveBytes() as held:
        first = torch.empty(1000, device="meta")
        view = first[:10]
        second = torch.empty(500, device="meta")
        assert held.now == 6000
        del first, second
        assert held.now == 4000  # the view holds all of the first
        del view
    assert (held.now, held.peak) == (0, 6000)


def test_the_backward_pass_holds_what_it_needs() -> None:
    weight = nn.Parameter(torch.empty(100, 50, device="meta"))
    inputs = torch.empty(20, 50, device="meta")
    with LiveBytes() as held:
        product = inputs @ weight.T
        assert held.now == 4 * 20 * 100
        squared = product.square()
        del product
        assert held.now == 2 * 4 * 20 * 100  # square keeps its input
        torch.autograd.backward(squared.sum())
    assert weight.grad is not None and held.peak >= 3 * 4 * 20 * 100


@pytest.mark.parametrize(("device", "norm"), [("cuda", torch.float32), ("cpu", torch.bfloat16)])
def test_norms_are_wide_on_a_gpu_alone(device: str, norm: torch.dtype) -> None:
    layer = nn.Linear(16, 16, device="meta")
    with MetaAutocast(torch.bfloat16, device):  # pyright: ignore[reportArgumentType]
        product = layer(torch.empty(4, 16, device="meta"))
        assert product.dtype == torch.bfloat16
        weight = torch.empty(16, device="meta", dtype=norm)
        assert functional.layer_norm(product, (16,), weight, weight).dtype == norm


def test_casts_are_those_of_autocast_on_a_cpu() -> None:
    layer = nn.Linear(16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        real = [layer(torch.randn(4, 16)), torch.matmul(torch.randn(4, 4), torch.randn(4, 4))]
    layer = layer.to("meta")
    with MetaAutocast(torch.bfloat16, "cpu"):
        square = torch.empty(4, 4, device="meta")
        planned = [layer(torch.empty(4, 16, device="meta")), torch.matmul(square, square)]
    assert [value.dtype for value in planned] == [value.dtype for value in real]


def test_attention_keeps_no_matrix() -> None:
    query, key, value = (torch.empty(1, 2, 512, 8, device="meta", requires_grad=True) for _ in range(3))
    with LiveBytes() as held, MetaAutocast(None, "cuda"):
        kept = functional.scaled_dot_product_attention(query, key, value)
    assert kept.shape == query.shape and held.now < 4 * 2 * 512 * 512 / 8
