import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from finetune.config.loss import LossConfig
from finetune.objectives.flow_matching import FlowMatching
from tests.parity.test_objectives import latents

SIZE = (64, 48)
CLEAN, NOISE = latents(6, 0), latents(6, 1)


def flow(options: LossConfig | None = None, **scheduler: object) -> FlowMatching:
    found = FlowMatchEulerDiscreteScheduler(**scheduler).config  # type: ignore[arg-type]
    return FlowMatching.from_scheduler(found, options or LossConfig(), patch=2)


def test_noisy_latents_and_target_are_those_of_the_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    objective = FlowMatching.from_scheduler(scheduler.config, LossConfig(), patch=2)
    t = scheduler.timesteps[[0, 400, 999]]
    clean, noise = CLEAN[:3], NOISE[:3]
    noisy = scheduler.scale_noise(clean, t, noise)
    assert torch.allclose(objective.add_noise(clean, noise, t), noisy, atol=1e-6)
    # One Euler step of the scheduler along the true velocity, from t to 0, gives the image back.
    share = (t / 1000).view(-1, 1, 1, 1)
    assert torch.allclose(noisy - share * objective.target(clean, noise, t), clean, atol=1e-5)
    assert objective.weight(t).tolist() == [1, 1, 1]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_timesteps_are_the_schedulers_own(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    objective = FlowMatching.from_scheduler(scheduler.config, LossConfig(timestep_density="uniform"), patch=2)
    u = torch.arange(1000, 0, -1).double() / 1000
    assert torch.allclose(objective.sample_timesteps(u, SIZE), scheduler.timesteps, atol=1e-3)


def test_the_shift_of_the_resolution_is_the_schedulers_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    objective = FlowMatching.from_scheduler(scheduler.config, LossConfig(timestep_density="uniform"), patch=2)
    patches = SIZE[0] * SIZE[1] // 4
    mu = 0.5 + (patches - 256) * (1.15 - 0.5) / (4096 - 256)
    sigmas = np.linspace(1.0, 0.1, 10)
    scheduler.set_timesteps(sigmas=sigmas.tolist(), mu=mu)
    found = objective.sample_timesteps(torch.from_numpy(sigmas), SIZE)
    assert torch.allclose(found, scheduler.timesteps, atol=1e-3)
    assert not torch.allclose(objective.sample_timesteps(torch.from_numpy(sigmas), (32, 32)), found)


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.5, 0.7, 3.0)])
def test_the_logit_normal_density_is_that_of_the_paper(mean: float, std: float, shift: float) -> None:
    options = LossConfig(logit_mean=mean, logit_std=std, timestep_shift=shift)
    objective = flow(options)
    u = (torch.arange(200_000).double() + 0.5) / 200_000
    s = objective.sample_timesteps(u, SIZE).double() / 1000
    edges = torch.linspace(0.05, 0.95, 10).double()
    counted = torch.tensor([float((s < edge).double().mean()) for edge in edges])

    def density(value: float) -> float:
        """Equation 19 of arXiv 2403.03206, for the timestep before the shift."""
        logit = math.log(value / (1 - value))
        return math.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi) * value * (1 - value))

    for edge, share in zip(edges.tolist(), counted.tolist(), strict=True):
        before = edge / (shift - (shift - 1) * edge)
        grid = np.linspace(1e-6, before, 20_001)
        assert np.trapezoid([density(value) for value in grid], grid) == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_the_range_of_timesteps_is_kept(density: str) -> None:
    options = LossConfig(min_timestep=200, max_timestep=700, timestep_density=density)  # type: ignore[arg-type]
    objective = flow(options, shift=3.0)
    u = torch.tensor([0.0, 0.5, 1 - 1e-12])
    low, middle, high = objective.sample_timesteps(u.double(), SIZE).tolist()
    assert low == pytest.approx(200, abs=1e-3) and high == pytest.approx(700, abs=1e-3)
    assert 300 < middle < 600


def test_validation_takes_plain_timesteps() -> None:
    objective = flow(LossConfig(logit_mean=1.0, min_timestep=300, error="huber"), shift=3.0).plain()
    u = torch.tensor([0.25, 0.5])
    assert objective.sample_timesteps(u, SIZE).tolist() == [250, 500]
    squared = objective.error(CLEAN, NOISE, torch.full((len(CLEAN),), 500.0))
    assert torch.equal(squared, (CLEAN - NOISE).square())


def test_thresholds_of_huber_fall_with_the_noise() -> None:
    t = torch.tensor([0.0, 400.0, 1000.0])
    error = torch.full((3, 1), 3.0)
    for schedule, thresholds in (("exponential", [1, 0.1**0.4, 0.1]), ("snr", [1, 0.9 * 0.36 + 0.1, 0.1])):
        objective = flow(LossConfig(error="huber", huber_schedule=schedule))  # type: ignore[arg-type]
        found = objective.error(error, torch.zeros(3, 1), t).flatten().tolist()
        for value, c in zip(found, thresholds, strict=True):
            assert value == pytest.approx(2 * c**2 * (math.sqrt(1 + 9 / c**2) - 1), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (LossConfig(weighting="min_snr"), "loss.weighting"),
        (LossConfig(snr_gamma=3.0), "loss.snr_gamma"),
        (LossConfig(timestep_bias="style"), "loss.timestep_bias"),
        (LossConfig(zero_terminal_snr=True), "loss.zero_terminal_snr"),
        (LossConfig(max_timestep=1001), "loss.max_timestep"),
    ],
)
def test_options_of_diffusion_are_refused(options: LossConfig, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        flow(options)
    flow(LossConfig(weighting="none", max_timestep=1000))
