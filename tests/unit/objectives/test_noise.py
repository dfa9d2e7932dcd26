import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.objectives.noise import Noise, enlarging, nearest_noise, training_noise
from finetune.randomness import noise_at

NUM = 4000
SHAPE = (2, 8, 12)


def source(positions: Sequence[int], seed: int = 0) -> Noise:
    return functools.partial(noise_at, seed, positions)


def latents(num: int = NUM, shape: Sequence[int] = SHAPE) -> Tensor:
    return 0.9 * torch.randn(num, *shape, generator=torch.Generator().manual_seed(7))


def drawn(options: LossConfig, num: int = NUM) -> tuple[Tensor, Tensor]:
    return training_noise(source(range(num)), latents(num), options)


def test_noise_is_that_of_the_position_where_nothing_is_asked() -> None:
    noise, in_input = drawn(LossConfig(), 5)
    assert torch.equal(noise, noise_at(0, range(5), SHAPE)) and torch.equal(in_input, noise)


def test_draws_of_other_names_are_independent() -> None:
    first, second = noise_at(0, range(100), SHAPE), noise_at(0, range(100), SHAPE, "offset")
    assert abs((first * second).mean().item()) < 4 / first.numel() ** 0.5


def test_offset_noise_is_one_number_a_channel_of_the_stated_deviation() -> None:
    offset = (drawn(LossConfig(offset_noise=0.3))[0] - drawn(LossConfig())[0]).flatten(2)  # [B C H*W]
    torch.testing.assert_close(offset, offset[:, :, :1].expand_as(offset), rtol=0, atol=1e-5)
    numbers = offset[:, :, 0]
    assert numbers.std().item() == pytest.approx(0.3, rel=0.03) and abs(numbers.mean().item()) < 0.02
    assert abs(torch.corrcoef(numbers.T)[0, 1].item()) < 0.06


@pytest.mark.parametrize("discount", [0.3, 0.9])
def test_each_value_of_pyramid_noise_is_standard_normal_and_neighbours_are_alike(discount: float) -> None:
    """The covariance of two values follows from the levels' matrices alone."""
    noise = drawn(LossConfig(pyramid_noise=discount))[0]
    torch.testing.assert_close(noise.std(0), torch.ones(SHAPE), rtol=0, atol=0.06)
    torch.testing.assert_close(noise.mean(0), torch.zeros(SHAPE), rtol=0, atol=0.07)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    kurtosis = (noise**4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)
    levels = [(torch.eye(8), torch.eye(12)), *((enlarging(8 >> i, 8), enlarging(12 >> i, 12)) for i in (1, 2, 3))]
    powers = [discount ** (2 * i) for i in range(4)]
    expected = sum(p * (r @ r.T)[3, 4] * (c @ c.T)[5, 5] for p, (r, c) in zip(powers, levels, strict=True))
    assert (noise[..., 3, 5] * noise[..., 4, 5]).mean().item() == pytest.approx(float(expected) / sum(powers), abs=0.04)


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 1, 9), (4, 7, 5), (4, 64, 64)])
def test_pyramid_noise_has_the_shape_of_any_latents(shape: tuple[int, ...]) -> None:
    noise, _ = training_noise(source(range(2)), latents(2, shape), LossConfig(pyramid_noise=0.9))
    assert noise.shape == (2, *shape) and bool(torch.isfinite(noise).all())


def test_perturbation_is_standard_normal_noise_of_the_input_alone() -> None:
    noise, in_input = drawn(LossConfig(input_perturbation=0.1))
    assert torch.equal(noise, drawn(LossConfig())[0])
    extra = in_input - noise
    assert extra.std().item() == pytest.approx(0.1, rel=0.01)
    assert abs((extra * noise).mean().item()) < 1e-3


def test_the_nearest_of_all_draws_is_taken() -> None:
    clean = latents(20)
    draws = [noise_at(0, range(20), SHAPE, name) for name in ("", "candidate 1", "candidate 2", "candidate 3")]
    chosen = nearest_noise(source(range(20)), clean, 4)
    for b in range(20):
        distances = [(draw[b].double() - clean[b].double()).norm() for draw in draws]
        assert torch.equal(chosen[b], draws[int(torch.stack(distances).argmin())][b])


def test_nearer_noise_leans_towards_the_latents_and_one_draw_does_not() -> None:
    """The nearest of k has the least |x - epsilon|. Its mean falls as k rises."""
    clean = latents(400)
    means = [(nearest_noise(source(range(400)), clean, k) - clean).flatten(1).norm(dim=1).mean() for k in (1, 2, 8)]
    assert means[0] > means[1] > means[2]


EVERYTHING = LossConfig(offset_noise=0.1, pyramid_noise=0.5, input_perturbation=0.1, nearest_noise=3)


def test_noise_is_a_function_of_seed_and_position_whatever_the_batch() -> None:
    """Two processes or passes take two of four positions each."""
    clean = latents(4)
    together = torch.stack(training_noise(source([3, 4, 5, 6]), clean, EVERYTHING))
    halves = [
        torch.stack(training_noise(source(positions), clean[start : start + 2], EVERYTHING))
        for start, positions in ((0, [3, 4]), (2, [5, 6]))
    ]
    assert torch.equal(together, torch.cat(halves, 1))
    order = [2, 0, 3, 1]
    shuffled = torch.stack(training_noise(source([5, 3, 6, 4]), clean[order], EVERYTHING))
    assert torch.equal(together[:, order], shuffled)
    other = torch.stack(training_noise(source([3, 4, 5, 6], seed=1), clean, EVERYTHING))
    assert not torch.equal(together, other)


def test_noise_stays_in_float32_beside_latents_of_half_precision() -> None:
    for noise in training_noise(source([0, 1]), latents(2).bfloat16(), EVERYTHING):
        assert noise.dtype == torch.float32
