"""The learning rate follows diffusers' schedulers, but for the first step.

diffusers starts a warm-up at rate 0, so its first step does nothing; ours starts at 1 / W, diffusers' next rate.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers.optimization import get_scheduler

from finetune.config.optim import OptimConfig, Schedule
from finetune.optim.build import learning_rate_factor

STEPS, WARMUP = 50, 10
NAMES: dict[Schedule, str] = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def ours(config: OptimConfig, steps: int = STEPS) -> list[float]:
    return [learning_rate_factor(step, config, steps) for step in range(steps)]


def theirs(schedule: Schedule) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(NAMES[schedule], optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", NAMES)
def test_the_rates_are_those_of_diffusers_and_the_warm_up_one_step_earlier(schedule: Schedule) -> None:
    rates, expected = ours(OptimConfig(schedule=schedule, warmup_steps=WARMUP)), theirs(schedule)
    assert rates[WARMUP:] == pytest.approx(expected[WARMUP:], abs=1e-12)
    assert expected[0] == 0 and rates[:WARMUP] == pytest.approx(expected[1 : WARMUP + 1], abs=1e-12)


@pytest.mark.parametrize("schedule", NAMES)
def test_the_warm_up_rises_without_a_step_at_rate_zero_and_hands_over_at_the_peak(schedule: Schedule) -> None:
    rates = ours(OptimConfig(schedule=schedule, warmup_steps=WARMUP))
    assert rates[0] == 1 / WARMUP
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:WARMUP]))
    assert rates[WARMUP - 1] == rates[WARMUP] == 1


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_the_rate_falls_from_the_peak_to_the_final_ratio_one_step_after_the_last(
    schedule: Schedule, ratio: float
) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=WARMUP, final_lr_ratio=ratio)
    rates = [*ours(config), learning_rate_factor(STEPS, config, STEPS)]
    assert rates[-1] == pytest.approx(ratio, abs=1e-12)
    assert rates[WARMUP] == 1
    assert all(later < earlier or ratio == 1 for earlier, later in itertools.pairwise(rates[WARMUP:]))


def test_a_constant_schedule_ignores_the_final_ratio() -> None:
    assert ours(OptimConfig(schedule="constant", final_lr_ratio=0.1)) == [1.0] * STEPS


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_the_shortest_runs_have_rates_from_zero_to_one(schedule: Schedule, steps: int, warmup: int) -> None:
    rates = ours(OptimConfig(schedule=schedule, warmup_steps=warmup), steps)
    assert all(0 < rate <= 1 for rate in rates)


def test_the_rate_depends_on_nothing_but_step_options_and_length() -> None:
    config = OptimConfig(schedule="cosine", warmup_steps=WARMUP)
    forwards = ours(config)
    backwards = [learning_rate_factor(step, replace(config), STEPS) for step in reversed(range(STEPS))]
    assert forwards == backwards[::-1]
