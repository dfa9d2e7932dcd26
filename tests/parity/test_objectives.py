import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Literal, get_args

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr as diffusers_rescale
from diffusers.training_utils import compute_snr
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.models.families.sd import StableDiffusion
from finetune.objectives.diffusion import (
    Diffusion,
    PredictionType,
    denoising_loss,
    pseudo_huber,
    rescale_zero_terminal_snr,
)

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)
EVERY_T: Any = torch.arange(1000)
PLAIN = LossConfig()
WEIGHTINGS = (
    PLAIN,
    LossConfig(weighting="soft_min_snr"),
    LossConfig(weighting="debiased"),
    LossConfig(weighting="p2", p2_gamma=0.5, p2_k=2.0),
)


@pytest.fixture(scope="module")
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(**BETAS)


def objective_of(scheduler: DDPMScheduler, prediction_type: PredictionType, options: LossConfig = PLAIN) -> Diffusion:
    return Diffusion(scheduler.alphas_cumprod.double(), prediction_type, options)


def latents(num: int, seed: int) -> Tensor:
    return torch.randn(num, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_noisy_latents_equal_those_of_diffusers_at_every_timestep(scheduler: DDPMScheduler) -> None:
    clean, noise = latents(1000, 0), latents(1000, 1)
    ours = objective_of(scheduler, "epsilon").add_noise(clean, noise, EVERY_T)
    torch.testing.assert_close(ours, scheduler.add_noise(clean, noise, EVERY_T), rtol=1e-5, atol=1e-6)
    assert ours.dtype == torch.float32


def test_targets_equal_noise_velocity_and_image(scheduler: DDPMScheduler) -> None:
    clean, noise = latents(1000, 0), latents(1000, 1)
    velocity = objective_of(scheduler, "v_prediction").target(clean, noise, EVERY_T)
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, EVERY_T), rtol=1e-5, atol=1e-6)
    assert torch.equal(objective_of(scheduler, "epsilon").target(clean, noise, EVERY_T), noise)
    assert torch.equal(objective_of(scheduler, "sample").target(clean, noise, EVERY_T), clean)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_diffusers_recovers_the_image_from_the_target(
    scheduler: DDPMScheduler, prediction_type: PredictionType
) -> None:
    sampler = DDIMScheduler(**BETAS, prediction_type=prediction_type, clip_sample=False)
    sampler.set_timesteps(1000)
    objective = objective_of(scheduler, prediction_type)
    for t in (0, 1, 500, 900):
        at = torch.tensor([t])
        clean, noise = latents(1, t), latents(1, t + 1)
        noisy, target = objective.add_noise(clean, noise, at), objective.target(clean, noise, at)
        found: Any = sampler.step(target, t, noisy)
        torch.testing.assert_close(found.pred_original_sample, clean, rtol=1e-3, atol=1e-4)


# SNR = alpha_bar / (1 - alpha_bar), computed by hand from alpha_bar 0.1, 0.8, 0.96: 1/9, 4, 24. With gamma 5:
@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [
        ("epsilon", [1.0, 1.0, 5 / 24]),  # min(SNR, 5) / SNR
        ("v_prediction", [0.1, 0.8, 0.2]),  # min(SNR, 5) / (SNR + 1)
        ("sample", [1 / 9, 4.0, 5.0]),  # min(SNR, 5)
    ],
)
def test_min_snr_weights_are_those_computed_by_hand(prediction_type: PredictionType, expected: list[float]) -> None:
    objective = Diffusion(torch.tensor([0.96, 0.8, 0.1], dtype=torch.float64), prediction_type, PLAIN)
    torch.testing.assert_close(objective.weight(torch.tensor([2, 1, 0])), torch.tensor(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weights_follow_from_diffusers_snr(scheduler: DDPMScheduler, prediction_type: PredictionType) -> None:
    snr = compute_snr(scheduler, EVERY_T)
    clipped = torch.minimum(snr, torch.full_like(snr, 5.0))
    expected = {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}[prediction_type]
    ours = objective_of(scheduler, prediction_type).weight(EVERY_T)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
    assert ours.dtype == torch.float32


# At SNR 1/9, 4 and 24 by hand, for epsilon; sample is times SNR, v times SNR / (SNR + 1).
@pytest.mark.parametrize(
    ("options", "in_epsilon"),
    [
        (LossConfig(weighting="soft_min_snr"), [5 / (46 / 9), 5 / 9, 5 / 29]),  # gamma / (SNR + gamma)
        (LossConfig(weighting="soft_min_snr", snr_gamma=1.0), [0.9, 0.2, 0.04]),
        (LossConfig(weighting="debiased"), [3.0, 0.5, 24**-0.5]),  # 1 / sqrt(SNR)
        (LossConfig(weighting="p2"), [0.9, 0.2, 0.04]),  # 1 / (1 + SNR)
        (LossConfig(weighting="p2", p2_gamma=0.5, p2_k=12.0), [(12 + 1 / 9) ** -0.5, 0.25, 1 / 6]),
    ],
)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_other_weights_are_those_computed_by_hand(
    options: LossConfig, in_epsilon: list[float], prediction_type: PredictionType
) -> None:
    objective = Diffusion(torch.tensor([0.96, 0.8, 0.1], dtype=torch.float64), prediction_type, options)
    snr = torch.tensor([1 / 9, 4, 24])
    factor = {"epsilon": torch.ones(3), "v_prediction": snr / (snr + 1), "sample": snr}[prediction_type]
    weight = objective.weight(torch.tensor([2, 1, 0]))
    torch.testing.assert_close(weight, torch.tensor(in_epsilon) * factor, rtol=1e-6, atol=0)
    assert weight.dtype == torch.float32


@pytest.mark.parametrize("sigma_data", [0.2**0.5, 1.0])
def test_soft_min_snr_is_the_weight_of_k_diffusion(scheduler: DDPMScheduler, sigma_data: float) -> None:
    """The error of x_0 is c_out times that of the output.

    c_out is sigma sigma_data / sqrt(sigma^2 + sigma_data^2); the preconditioned output's error weighs (sigma
    sigma_data)^2 / (sigma^2 + sigma_data^2)^2.
    """
    variance = 1 / compute_snr(scheduler, EVERY_T).double()
    of_output = variance * sigma_data**2 / (variance + sigma_data**2) ** 2
    of_sample = of_output / (variance * sigma_data**2 / (variance + sigma_data**2))
    options = LossConfig(weighting="soft_min_snr", snr_gamma=sigma_data**-2)
    ours = objective_of(scheduler, "sample", options).weight(EVERY_T)
    torch.testing.assert_close(ours.double(), of_sample, rtol=1e-4, atol=0)


def test_soft_min_snr_lies_below_min_snr_and_meets_it_at_both_ends(scheduler: DDPMScheduler) -> None:
    hard = objective_of(scheduler, "epsilon").weight(EVERY_T)
    soft = objective_of(scheduler, "epsilon", WEIGHTINGS[1]).weight(EVERY_T)
    ratio = soft / hard
    assert bool((ratio < 1).all()) and ratio[0] > 0.99 and ratio[-1] > 0.99 and 0.49 < ratio.min() < 0.51


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_debiased_weights_of_usual_schedules_are_not_cut(schedule: str) -> None:
    scheduler = DDPMScheduler(beta_schedule=schedule)
    weight = objective_of(scheduler, "epsilon", LossConfig(weighting="debiased")).weight(EVERY_T)
    torch.testing.assert_close(weight, compute_snr(scheduler, EVERY_T) ** -0.5, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", WEIGHTINGS, ids=lambda options: options.weighting)
def test_the_three_weights_are_one_loss_in_three_parametrisations(
    scheduler: DDPMScheduler, options: LossConfig
) -> None:
    """An error delta in x_0 is sqrt(SNR) delta in epsilon. It is sqrt(SNR + 1) delta in v."""
    snr = compute_snr(scheduler, EVERY_T).double()
    in_sample = objective_of(scheduler, "sample", options).weight(EVERY_T)
    in_epsilon = objective_of(scheduler, "epsilon", options).weight(EVERY_T) * snr
    in_v = objective_of(scheduler, "v_prediction", options).weight(EVERY_T) * (snr + 1)
    torch.testing.assert_close(in_epsilon, in_sample.double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(in_v, in_sample.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_without_weighting_all_timesteps_weigh_the_same(
    scheduler: DDPMScheduler, prediction_type: PredictionType
) -> None:
    objective = objective_of(scheduler, prediction_type, LossConfig(weighting="none"))
    assert torch.equal(objective.weight(EVERY_T), torch.ones(1000))


def test_rescaling_equals_diffusers_and_ends_at_zero(scheduler: DDPMScheduler) -> None:
    ours = rescale_zero_terminal_snr(scheduler.alphas_cumprod.double())
    theirs = torch.cumprod(1 - diffusers_rescale(scheduler.betas.double()), 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)
    assert ours[-1] == 0
    assert ours[0] == pytest.approx(scheduler.alphas_cumprod[0].item(), rel=1e-12)
    assert bool((ours.diff() < 0).all())


def test_rescaling_twice_changes_nothing(scheduler: DDPMScheduler) -> None:
    once = rescale_zero_terminal_snr(scheduler.alphas_cumprod.double())
    torch.testing.assert_close(rescale_zero_terminal_snr(once), once, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [DDIMScheduler, PNDMScheduler])
def test_zero_terminal_snr_holds_whatever_the_checkpoints_scheduler_makes_of_its_own_option(
    kind: type[DDIMScheduler] | type[PNDMScheduler],
) -> None:
    """PNDM keeps `rescale_betas_zero_snr` in its config and does nothing with it."""
    config = BETAS | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    objective = StableDiffusion().objective(kind.from_config(config), LossConfig(zero_terminal_snr=True))
    assert isinstance(objective, Diffusion)
    clean, noise, last = latents(1, 0), latents(1, 1), torch.tensor([999])
    assert torch.equal(objective.add_noise(clean, noise, last), noise)
    assert torch.equal(objective.target(clean, noise, last), -clean)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("options", WEIGHTINGS, ids=lambda options: options.weighting)
def test_weights_and_targets_are_finite_at_both_ends(
    scheduler: DDPMScheduler, prediction_type: PredictionType, rescaled: bool, options: LossConfig
) -> None:
    schedule = scheduler.alphas_cumprod.double()
    objective = Diffusion(rescale_zero_terminal_snr(schedule) if rescaled else schedule, prediction_type, options)
    ends = torch.tensor([0, 999])
    weight = objective.weight(ends)
    assert bool(torch.isfinite(weight).all()) and bool((weight >= 0).all())
    if rescaled and prediction_type != "epsilon":
        assert weight[1] == 0
    assert bool(torch.isfinite(objective.target(latents(2, 0), latents(2, 1), ends)).all())


def test_uniforms_reach_every_timestep_and_no_other(scheduler: DDPMScheduler) -> None:
    objective = objective_of(scheduler, "epsilon")
    middles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.equal(objective.sample_timesteps(middles, (8, 8)), EVERY_T)
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert objective.sample_timesteps(ends, (8, 8)).tolist() == [0, 999]
    assert objective.sample_timesteps(ends.float(), (8, 8)).tolist() == [0, 999]  # where float32 rounds to 1


@pytest.mark.parametrize(("low", "high"), [(None, None), (7, 31), (29, 29), (990, None), (None, 0)])
@pytest.mark.parametrize("bias", ["none", "content", "style"])
def test_timesteps_stay_in_their_range_with_the_shares_of_the_closed_form(
    scheduler: DDPMScheduler, low: int | None, high: int | None, bias: Literal["none", "content", "style"]
) -> None:
    options = LossConfig(min_timestep=low, max_timestep=high, timestep_bias=bias)
    num_draws = 200_000
    u = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    t = objective_of(scheduler, "epsilon", options).sample_timesteps(u, (8, 8))
    first, last = low or 0, 999 if high is None else high
    num = last - first + 1
    assert (t.min(), t.max()) == (first, last) and bool((t.diff() >= 0).all())
    share = torch.bincount(t - first, minlength=num).cumsum(0) / num_draws
    s = (torch.arange(num, dtype=torch.float64) + 1) / num
    expected = {"none": s, "style": s ** (1 / 3), "content": 1 - (1 - s) ** (1 / 3)}[bias]
    torch.testing.assert_close(share.double(), expected, rtol=0, atol=2 / num_draws)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.6, 1.0), (-1.0, 0.5)])
def test_logit_normal_timesteps_have_the_shares_of_the_closed_form(
    scheduler: DDPMScheduler, mean: float, std: float
) -> None:
    options = LossConfig(timestep_density="logit_normal", logit_mean=mean, logit_std=std)
    num_draws = 200_000
    u = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    objective = objective_of(scheduler, "epsilon", options)
    t = objective.sample_timesteps(u, (8, 8))
    assert bool((t.diff() >= 0).all())
    share = torch.bincount(t, minlength=1000).cumsum(0) / num_draws
    s = (torch.arange(999, dtype=torch.float64) + 1) / 1000
    expected = [NormalDist(mean, std).cdf(float(logit)) for logit in torch.logit(s)]
    torch.testing.assert_close(share[:-1].double(), torch.tensor(expected).double(), rtol=0, atol=2 / num_draws)
    ends = torch.tensor([0.0, 1 - 2.0**-53, 1.0], dtype=torch.float64)
    assert objective.sample_timesteps(ends, (8, 8)).tolist()[::2] == [0, 999]
    assert objective.plain().options.timestep_density == "auto"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logit_mean": 0.5}, "loss.logit_mean: got 0.5"),
        ({"timestep_density": "logit_normal", "timestep_bias": "content"}, "Remove one of them"),
        ({"timestep_shift": 3.0}, "only flow matching"),
    ],
)
def test_options_of_timesteps_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StableDiffusion().objective(DDPMScheduler(**BETAS), replace(LossConfig(), **changes))


@pytest.mark.parametrize("bias", ["none", "content", "style"])
def test_the_ends_of_the_uniforms_are_the_ends_of_the_range(
    scheduler: DDPMScheduler, bias: Literal["none", "content", "style"]
) -> None:
    objective = objective_of(scheduler, "epsilon", LossConfig(min_timestep=57, max_timestep=580, timestep_bias=bias))
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert objective.sample_timesteps(ends, (8, 8)).tolist() == [57, 580]


@pytest.mark.parametrize("name", ["min_timestep", "max_timestep"])
def test_a_timestep_that_the_schedule_does_not_have_is_refused(name: str) -> None:
    options = replace(LossConfig(), **{name: 1000})
    with pytest.raises(ValueError, match=rf"loss\.{name}: got 1000, .* 999"):
        StableDiffusion().objective(DDPMScheduler(**BETAS), options)


def test_pseudo_huber_is_squared_below_and_straight_above_its_threshold() -> None:
    x, c = torch.tensor([0.0, 1e-3, 0.3, 4.0, 1e3]), torch.tensor(0.3)
    ours = pseudo_huber(x.square(), c)
    closed = 2 * c.double() * ((x.double().square() + c.double().square()).sqrt() - c.double())
    torch.testing.assert_close(ours.double(), closed, rtol=1e-6, atol=0)
    assert ours[1].item() == pytest.approx(1e-6, rel=1e-4) and ours[-1].item() == pytest.approx(600, rel=1e-3)


def test_the_gradient_of_pseudo_huber_is_finite_where_there_is_no_error() -> None:
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    pseudo_huber(x.square(), torch.tensor(0.1)).sum().backward()
    assert x.grad is not None and x.grad[0] == 0
    assert x.grad[1].item() == pytest.approx(2 * 2.0 / (1 + (2.0 / 0.1) ** 2) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_thresholds_of_huber_follow_their_schedule(
    scheduler: DDPMScheduler, schedule: Literal["constant", "exponential", "snr"]
) -> None:
    """Read off large errors, and compared with diffusers' sigmas. Only 2 c |x| gives errors this large."""
    objective = objective_of(scheduler, "epsilon", LossConfig(error="huber", huber_c=0.2, huber_schedule=schedule))
    errors = objective.error(torch.full((1000, 1, 1, 1), 1e5), torch.zeros(1000, 1, 1, 1), EVERY_T)
    sigma = compute_snr(scheduler, EVERY_T) ** -0.5
    expected = {
        "constant": torch.full((1000,), 0.2),
        "exponential": torch.exp(math.log(0.2) * EVERY_T / 1000),
        "snr": 0.8 / (1 + sigma) ** 2 + 0.2,
    }[schedule]
    torch.testing.assert_close(errors.flatten() / 2e5, expected, rtol=1e-4, atol=0)
    assert errors.dtype == torch.float32


def test_the_threshold_is_huber_c_at_zero_terminal_snr(scheduler: DDPMScheduler) -> None:
    schedule = rescale_zero_terminal_snr(scheduler.alphas_cumprod.double())
    objective = Diffusion(schedule, "v_prediction", LossConfig(error="huber", huber_c=0.2))
    error = objective.error(torch.full((1, 1, 1, 1), 1e5), torch.zeros(1, 1, 1, 1), torch.tensor([999]))
    assert error.item() == pytest.approx(2 * 0.2 * 1e5, rel=1e-4)


def test_a_threshold_above_all_errors_leaves_the_mean_squared_error(scheduler: DDPMScheduler) -> None:
    options = LossConfig(error="huber", huber_c=1e4, huber_schedule="constant")
    prediction, target, t = latents(3, 0), latents(3, 1), torch.tensor([0, 500, 999])
    huber = objective_of(scheduler, "epsilon", options).error(prediction, target, t)
    torch.testing.assert_close(huber, objective_of(scheduler, "epsilon").error(prediction, target, t))


def test_perturbed_input_leaves_the_target_alone(scheduler: DDPMScheduler) -> None:
    objective, t = objective_of(scheduler, "epsilon"), torch.tensor([10, 600])
    clean, noise, other = latents(2, 0), latents(2, 1), latents(2, 2)
    seen = []

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        seen.append(noisy)
        return noise

    loss = denoising_loss(objective, predict, clean, noise, t, noise_in_input=other)
    assert torch.equal(loss, torch.zeros(2))
    assert torch.equal(seen[0], objective.add_noise(clean, other, t))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_loss_of_a_constant_prediction_has_its_closed_form(
    scheduler: DDPMScheduler, prediction_type: PredictionType
) -> None:
    """E (c - target)^2 = c^2 + E target^2. By target, the last is 1, s^2, or alpha_bar + (1 - alpha_bar) s^2."""
    constant, spread, t = 0.7, 0.5, torch.tensor([0, 300, 999])
    clean = spread * torch.randn(3, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    alpha_bar = scheduler.alphas_cumprod[t]
    power = {
        "epsilon": torch.ones(3),
        "sample": torch.full((3,), spread**2),
        "v_prediction": alpha_bar + (1 - alpha_bar) * spread**2,
    }[prediction_type]
    objective = objective_of(scheduler, prediction_type)
    loss = denoising_loss(objective, lambda noisy, t: torch.full_like(noisy, constant), clean, noise, t)
    assert loss.shape == (3,) and loss.dtype == torch.float32
    torch.testing.assert_close(loss, constant**2 + power, rtol=0.02, atol=0)


def test_a_perfect_prediction_has_no_loss_and_bf16_is_reduced_in_float32(scheduler: DDPMScheduler) -> None:
    objective, t = objective_of(scheduler, "epsilon"), torch.tensor([10, 600])
    clean, noise = latents(2, 0), latents(2, 1)
    assert torch.equal(denoising_loss(objective, lambda noisy, t: noise, clean, noise, t), torch.zeros(2))
    loss = denoising_loss(objective, lambda noisy, t: noise.bfloat16(), clean, noise, t)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (noise.bfloat16().float() - noise).square().mean((1, 2, 3)))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_gradient_of_the_weighted_loss_equals_finite_differences(
    scheduler: DDPMScheduler, prediction_type: PredictionType
) -> None:
    """Central differences are exact for a quadratic. The network is scale * noisy + shift * t / 1000."""
    objective, t = objective_of(scheduler, prediction_type), torch.tensor([3, 400, 950])
    clean, noise = latents(3, 0), latents(3, 1)

    def loss(parameters: Tensor) -> Tensor:
        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return parameters[0] * noisy + parameters[1] * (t / 1000).view(-1, 1, 1, 1)

        return (denoising_loss(objective, predict, clean, noise, t) * objective.weight(t)).mean()

    at = torch.tensor([0.3, -0.2], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(at), at)
    step = 0.25
    for number in range(2):
        offset = torch.zeros(2)
        offset[number] = step
        difference = (loss(at.detach() + offset) - loss(at.detach() - offset)) / (2 * step)
        assert gradient[number].item() == pytest.approx(difference.item(), rel=1e-3, abs=1e-5)
