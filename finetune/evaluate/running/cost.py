"""The part of a grid that fits into the time. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

LEAST_PROMPTS, LEAST_SEEDS = 4, 4
"""Fewer images than these of every checkpoint say too little."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the drawn grid, its interval, and other strengths."""

    num_prompts: int
    """Most prompts of each kind."""
    num_seeds: int
    widened: int = 1
    """Every so many checkpoints that the options ask for."""
    strengths: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(self.strengths))


@dataclass(frozen=True)
class Costs:
    """Measurements from before the first checkpoint is scored."""

    kinds: tuple[int, ...]
    """Number of prompts of each kind in the grid."""
    seconds_per_image: float
    """Drawn and scored, with all processes at work."""
    seconds_per_step: float
    """Of training."""
    steps: int
    """Of the whole run."""
    every: int

    def share(self, plan: Plan) -> float:
        """Estimate the share of the run's time that scoring takes. The base model's images are part of it."""
        num_prompts = sum(min(num, plan.num_prompts) for num in self.kinds)
        num_checkpoints = -(-self.steps // (self.every * plan.widened))
        num_rounds = 1 + num_checkpoints + len(plan.strengths)
        scoring = num_rounds * num_prompts * plan.num_seeds * self.seconds_per_image
        return scoring / (scoring + self.steps * self.seconds_per_step)


def affordable(plan: Plan, costs: Costs, most: float) -> Plan:
    """Reduce a plan to at most a share of the time.

    Strengths are dropped first, then seeds, then prompts, then checkpoints. At the least the last one is scored.
    """
    found = plan
    for found in reductions(plan, costs):
        if costs.share(found) <= most:
            break
    return found


def reductions(plan: Plan, costs: Costs) -> Iterator[Plan]:
    """Yield smaller and smaller plans, the whole one first."""
    yield plan
    while plan.strengths:
        plan = replace(plan, strengths=fewer_strengths(plan.strengths))
        yield plan
    for num in range(plan.num_seeds - 1, LEAST_SEEDS - 1, -1):
        plan = replace(plan, num_seeds=num)
        yield plan
    for num in range(plan.num_prompts - 1, 0, -1):
        if sum(min(of_kind, num) for of_kind in costs.kinds) >= LEAST_PROMPTS:
            plan = replace(plan, num_prompts=num)
            yield plan
    while costs.every * plan.widened < costs.steps:
        plan = replace(plan, widened=plan.widened + 1)
        yield plan


def fewer_strengths(strengths: tuple[float, ...]) -> tuple[float, ...]:
    """Drop the strength that is farthest from 1. The last three go at once, since one or two show no range."""
    if len(strengths) <= 3:
        return ()
    farthest = max(strengths, key=lambda each: abs(each - 1))
    return tuple(each for each in strengths if each != farthest)


def told(asked: Plan, plan: Plan, costs: Costs, most: float) -> str | None:
    """Say what the bound took away. None where nothing was."""
    if plan == asked:
        return None
    parts = []
    if plan.strengths != asked.strengths:
        left = " ".join(f"{each:g}" for each in plan.strengths) or "none"
        parts.append(f"other strengths: {left}")
    if plan.num_seeds != asked.num_seeds:
        parts.append(f"{plan.num_seeds} of {asked.num_seeds} seeds")
    if plan.num_prompts != asked.num_prompts:
        parts.append(f"at most {plan.num_prompts} prompts of each kind")
    if plan.widened != 1:
        parts.append(f"every {costs.every * plan.widened} steps instead of {costs.every}")
    text = (
        f"evaluate.max_share: all scoring would take {costs.share(asked):.0%} of the run's time, more than {most:.0%}; "
    )
    text += f"reduced to {', '.join(parts)}, about {costs.share(plan):.0%}."
    return text
