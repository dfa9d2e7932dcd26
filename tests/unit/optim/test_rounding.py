from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.config.optim import OptimConfig, Optimizer, Weights
from finetune.optim.build import build_optimizer
from finetune.optim.ema import load_trained_state, trained_state
from finetune.optim.groups import usual_groups
from finetune.optim.per_parameter import PerParameterOptimizer
from finetune.optim.rounding import compensated, random_bits, round_compensated, round_stochastically
from tests.unit.optim.test_build import Quadratic, copies, same, steps

NAMES: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "paged_adamw8bit", "lion8bit", "adafactor")
ROUNDED: tuple[Weights, ...] = ("bf16_stochastic", "bf16_kahan")
VALUES = [1.001, -1.001, 3.14159, -2.7e-5, 1e-30, -6.5e29, 1e-40, 0.0, 1 - 2**-24, 255.999]


@pytest.mark.parametrize("value", VALUES)
def test_the_mean_over_all_bits_is_the_number_itself(value: float) -> None:
    """Closed form: 65536 equally likely draws, float64 holds their sum exactly."""
    exact = torch.tensor(value)
    rounded = round_stochastically(exact.expand(1 << 16).contiguous(), torch.arange(1 << 16, dtype=torch.int32))
    assert rounded.double().mean().item() == exact.double().item()
    assert len(rounded.unique()) <= 2
    distances = (rounded.double() - exact.double()).abs()
    assert distances.max().item() <= max(abs(value) * 2**-7, 2**-133)


def test_what_bfloat16_can_hold_stays_and_so_does_what_is_not_a_number() -> None:
    held = torch.tensor([1.0, -0.5, 0.0, -0.0, 1.0078125, float("inf"), -float("inf"), 2.0**-126])
    ones = torch.full(held.shape, 0xFFFF, dtype=torch.int32)
    assert torch.equal(round_stochastically(held, ones).float(), held)
    unknown = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert bool(round_stochastically(unknown, ones[:3]).isnan().all())


def test_bits_are_a_function_of_seed_step_and_parameter() -> None:
    weight = torch.zeros(64, 64)
    first = random_bits(weight, 0, 3, "denoiser", 5)
    torch.manual_seed(123)
    assert torch.equal(first, random_bits(weight, 0, 3, "denoiser", 5))
    others = [(1, 3, "denoiser", 5), (0, 4, "denoiser", 5), (0, 3, "text_encoder", 5), (0, 3, "denoiser", 6)]
    assert not any(torch.equal(first, random_bits(weight, *other)) for other in others)
    assert first.min() >= 0 and first.max() < 1 << 16
    standard_error = (1 << 16) / 12**0.5 / 64
    assert abs(first.double().mean().item() - 32767.5) < 4 * standard_error


def test_kahan_follows_the_paper_bit_for_bit_where_float32_is_exact() -> None:
    """In float64, with sums kept in bfloat16. y = u - c, s = w + y, c = (s - w) - y; updates are on a grid of 2^-12."""
    generator = torch.Generator().manual_seed(0)
    weight, compensation = torch.ones(100).bfloat16(), torch.zeros(100).bfloat16()
    theirs, buffer = weight.double(), compensation.double()
    for _ in range(200):
        update = torch.randint(-3, 6, (100,), generator=generator) * 2.0**-12
        weight, compensation = round_compensated(compensated(weight, compensation) + update)
        y = update.double() - buffer
        total = (theirs + y).float().bfloat16().double()
        buffer = ((total - theirs) - y).float().bfloat16().double()
        theirs = total
        assert torch.equal(weight.double(), theirs) and torch.equal(compensation.double(), buffer)


def test_a_weight_and_its_compensation_hold_sixteen_bits() -> None:
    exact = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    weight, compensation = round_compensated(exact)
    errors = ((compensated(weight, compensation) - exact) / exact).abs()
    assert errors.max().item() <= 2.0**-16
    assert ((weight.float() - exact) / exact).abs().max().item() > 2.0**-10


# A regression: y = X w with w near 1, where bfloat16 numbers lie 2^-7 apart; the updates are some 2^-10.


def regression(weights: Weights | None) -> tuple[float, Tensor]:
    """Return last over first loss, and the weights. None is bfloat16 rounded to nearest by torch itself."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 32, generator=generator)
    target = inputs @ torch.full((32,), 1.4)
    model = nn.Module()
    model.denoiser = nn.Parameter(torch.full((32,), 1.1, dtype=torch.float32 if weights == "fp32" else torch.bfloat16))
    config = OptimConfig(lr=1e-3, weight_decay=0, weights=weights or "fp32")
    optimizer = build_optimizer(usual_groups(model, config), config)
    losses = []
    for step in range(1200):
        if isinstance(optimizer, PerParameterOptimizer):
            optimizer.set_step(step)
        optimizer.zero_grad()
        loss = (inputs @ model.denoiser.float() - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] / losses[0], model.denoiser.detach().float()


def test_rounding_to_nearest_stalls_where_both_remedies_learn() -> None:
    stalled, unmoved = regression(None)
    assert stalled == 1 and torch.equal(unmoved, torch.full((32,), 1.1).bfloat16().float())
    assert regression("fp32")[0] < 1e-6
    for weights in ROUNDED:
        assert regression(weights)[0] < 1e-3  # the model computes with rounded weights, up to 2^-8 off


# Every optimizer that can step alone.


def config_of(name: Optimizer, weights: Weights = "fp32", *, in_backward: bool = False) -> OptimConfig:
    return OptimConfig(name=name, lr=1e-3, weights=weights, in_backward=in_backward)


def model_of(config: OptimConfig) -> Quadratic:
    model = Quadratic()
    return model if config.weights == "fp32" else model.bfloat16()


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("weights", ROUNDED)
@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_continues_bit_for_bit(
    name: Optimizer, weights: Weights, in_backward: bool, tmp_path: Path
) -> None:
    config = config_of(name, weights, in_backward=in_backward)
    first, second = model_of(config), model_of(config)
    optimizers = [build_optimizer(usual_groups(model, config), config, seed=7) for model in (first, second)]
    start = copies(first)
    steps(first, optimizers[0], 5)
    torch.save(optimizers[0].state_dict(), tmp_path / "state.pt")
    load_trained_state(second, trained_state(first))
    optimizers[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for model, optimizer in zip((first, second), optimizers, strict=True):
        steps(model, optimizer, 5, first=5)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        moments = [value for key, value in optimizer.state[model.denoiser.weight].items() if key != "compensation"]
        assert not any(isinstance(value, Tensor) and value.dtype == torch.bfloat16 for value in moments)
    assert same(first, copies(second)) and not torch.equal(start[0], first.denoiser.weight)


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_stepping_one_by_one_gives_the_same_bits_as_all_at_once(name: Optimizer, in_backward: bool) -> None:
    together, alone = Quadratic(), Quadratic()
    usual, config = config_of(name), config_of(name, in_backward=in_backward)
    optimizers = [
        build_optimizer(usual_groups(together, usual), usual),
        PerParameterOptimizer(build_optimizer(usual_groups(alone, usual), usual), "fp32", 0, in_backward=in_backward),
    ]
    assert isinstance(build_optimizer(usual_groups(Quadratic(), config), config), PerParameterOptimizer) == in_backward
    for model, optimizer in zip((together, alone), optimizers, strict=True):
        steps(model, optimizer, 10)
    assert same(together, copies(alone))


def test_gradients_are_freed_in_the_backward_pass_and_their_norm_is_that_of_all() -> None:
    config = config_of("adamw", in_backward=True)
    model, usual = Quadratic(), Quadratic()
    optimizer = build_optimizer(usual_groups(model, config), config)
    assert isinstance(optimizer, PerParameterOptimizer)
    assert optimizer.take_grad_norm().isnan()
    optimizer.set_step(0)
    model.loss().backward()
    assert all(p.grad is None for p in model.parameters())
    usual.loss().backward()
    expected = nn.utils.clip_grad_norm_([p for p in usual.parameters() if p.requires_grad], float("inf"))
    assert torch.equal(optimizer.take_grad_norm(), expected)
    (model.loss() * float("inf")).backward()
    assert not optimizer.take_grad_norm().isfinite()


@pytest.mark.parametrize("name", ["prodigy", "adamw_schedule_free"])
def test_optimizers_that_know_all_parameters_together_are_refused(name: Optimizer) -> None:
    for changes in (OptimConfig(name=name, weights="bf16_kahan"), OptimConfig(name=name, in_backward=True)):
        (problem,) = changes.problems()
        assert name in problem and "adamw8bit" in problem
