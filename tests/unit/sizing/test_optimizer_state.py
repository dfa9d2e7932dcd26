import pytest
import torch
from torch import Tensor, nn

from finetune.config.optim import OPTIMIZERS, OptimConfig
from finetune.optim.build import build_optimizer
from finetune.optim.groups import ParamGroup
from finetune.sizing.optimizer_state import state_bytes

SHAPES = ((8,), (64, 48), (96, 128), (32, 16, 3, 3), (8192,))


def counted(parameters: list[nn.Parameter], config: OptimConfig) -> int:
    """Take real steps, and count what the optimizer keeps per weight."""
    optimizer = build_optimizer([ParamGroup("denoiser", parameters, 1e-3)], config)
    for group in optimizer.param_groups:
        group["at_step"] = 0
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.step() if config.weights == "fp32" else None
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    kept = {value.data_ptr(): value.numel() * value.itemsize for value in tensors if value.numel() > 1}
    codebooks = [value for value in tensors if value.shape == (256,) and config.name.endswith("8bit")]
    return sum(kept.values()) - sum({value.data_ptr(): 1024 for value in codebooks}.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_keeps_the_bytes_that_are_planned(name: str) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    config = OptimConfig(name=name, lr=1.0 if OPTIMIZERS[name].finds_lr else 1e-3)
    assert state_bytes(parameters, config) == pytest.approx(counted(parameters, config), rel=0.02)


def test_kahan_keeps_a_second_number_for_each_weight() -> None:
    parameters = [nn.Parameter(torch.randn(shape).bfloat16()) for shape in SHAPES]
    config = OptimConfig(weights="bf16_kahan")
    assert state_bytes(parameters, config) == pytest.approx(counted(parameters, config), rel=0.02)
