import json
import random
from typing import Any

import numpy as np
import pytest

from finetune.config.evaluate import LimitsConfig
from finetune.evaluate.choice import best_content, choose, excess_of, plateau_start, should_stop

LIMITS = LimitsConfig()


def row(step: int | None, likeness: float, *, spread: float = 0.0, **others: float) -> dict[str, Any]:
    """A row whose cells spread around its likeness."""
    pattern = np.random.default_rng(step or 0).normal(0, spread, (6, 4)) if spread else np.zeros((6, 4))
    cells = likeness + pattern - pattern.mean()
    style = {"value": likeness, "low": likeness - 0.1, "high": likeness + 0.1, "cells": cells.tolist()}
    given = {"adherence": 0.9, "drift": 0.2, "leak": 0.0, "memorisation": 0.05} | others
    scores: dict[str, Any] = {name: {"value": value} for name, value in given.items()}
    scores["adherence"]["detail"] = {"base": 0.95}
    scores["memorisation"]["detail"] = {"false_alarms": 0.05}
    return {"step": step, "target": f"run {step}", "scores": scores | {"style": style}}


def test_the_highest_likeness_within_the_limits_is_chosen() -> None:
    rows = [row(100, 0.3), row(200, 0.6), row(300, 0.8, leak=0.5), row(400, 0.5)]
    choice = choose(rows, "style", LIMITS)
    assert choice is not None and choice.row["step"] == 200
    assert choice.runner_up is not None and choice.runner_up["step"] == 400
    assert "step 300 (leak)" in choice.reason and choice.warnings == ()


def test_where_no_difference_shows_the_latest_is_chosen() -> None:
    rows = [row(100, 0.2), row(200, 0.6, spread=0.4), row(300, 0.59, spread=0.4)]
    choice = choose(rows, "style", LIMITS)
    assert choice is not None and choice.row["step"] == 300 and choice.difference is not None
    assert choice.difference.contains_zero and "No difference shows to step 200" in choice.reason
    content = best_content(choice, "style", LIMITS)
    assert content["no_difference_shows"] and content["rule"].endswith("the latest")


def test_an_earlier_step_that_is_shown_to_be_better_is_chosen() -> None:
    choice = choose([row(100, 0.3), row(200, 0.9, spread=0.05), row(300, 0.6, spread=0.05)], "style", LIMITS)
    assert choice is not None and choice.row["step"] == 200


def test_a_step_that_another_than_the_highest_exceeds_is_left_out() -> None:
    """The highest is uncertain, the second one is not."""
    first = cells_row(200, [[1.2, 1.2], [0.9, 1.3], [0.1, 2.6]])
    second = cells_row(400, [[1.1, 1.1], [1.1, 1.1], [1.2, 1.2]])
    last = cells_row(800, [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    choice = choose([first, second, last], "style", LIMITS)
    assert choice is not None and choice.row["step"] == 400
    assert "No difference shows to step 200" in choice.reason
    assert "step 800 (1.000), is shown to be below step 400 (+0.1" in choice.reason


def test_of_equal_targets_without_steps_the_highest_is_chosen() -> None:
    """Files have no order, so none of them is the latest."""
    files = [row(None, 0.6, spread=0.4) | {"target": "a"}, row(None, 0.59, spread=0.2) | {"target": "b"}]
    for order in (files, files[::-1]):
        choice = choose(order, "style", LIMITS)
        assert choice is not None and choice.row["target"] == "a"


def cells_row(step: int, cells: list[list[float]], **others: float) -> dict[str, Any]:
    """A row of given cells."""
    found = row(step, float(np.mean(cells)), **others)
    found["scores"]["style"]["cells"] = cells
    return found


def test_the_last_step_of_a_run_on_line_drawings_is_kept() -> None:
    """A real run. On held-out images its last step was better."""
    first = [[0.82, 0.88, 0.89, 0.87], [0.97, 1.03, 1.11, 0.97], [0.45, 0.75, 0.66, 0.57], [0.36, 0.45, 0.59, 0.37]]
    last = [[0.86, 0.93, 0.93, 0.93], [1.07, 0.98, 1.03, 0.99], [0.61, 0.60, 0.61, 0.56], [0.30, 0.25, 0.30, 0.25]]
    choice = choose([cells_row(100, first, drift=0.48), cells_row(700, last, drift=0.71)], "style", LIMITS)
    assert choice is not None and choice.row["step"] == 700
    assert "drift 0.71" in choice.warnings[0] and "limits.drift to 0.6" in choice.warnings[0]


def test_a_small_difference_that_all_cells_share_shows() -> None:
    """Both intervals overlap; that of the paired difference is above 0."""
    choice = choose([row(100, 0.58), row(200, 0.6)], "style", LIMITS)
    assert choice is not None and choice.row["step"] == 200
    assert choice.difference is not None and choice.difference.low > 0


def test_rows_without_equal_cells_are_compared_by_their_intervals() -> None:
    rows = [row(100, 0.58), row(200, 0.6)]
    del rows[0]["scores"]["style"]["cells"]
    choice = choose(rows, "style", LIMITS)
    assert choice is not None and choice.row["step"] == 200
    assert plateau_start(rows, "style", LIMITS) is rows[0]


def test_beyond_all_limits_the_least_excess_is_chosen_and_said() -> None:
    choice = choose([row(100, 0.9, leak=0.9), row(200, 0.2, leak=0.4)], "style", LIMITS)
    assert choice is not None and choice.row["step"] == 200
    assert "no checkpoint stays within the limits" in choice.warnings[0] and "leak" in choice.warnings[0]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"adherence": 0.79}, ["adherence"]),
        ({"adherence": 0.81}, []),
        ({"drift": 0.99}, []),
        ({"drift": 1.01}, ["drift"]),
        ({"leak": 0.16, "memorisation": 0.21}, ["leak", "memorisation"]),
        ({"memorisation": 0.19}, []),
    ],
)
def test_limits_are_relative_to_the_base_model_and_to_false_alarms(
    others: dict[str, float], expected: list[str]
) -> None:
    assert list(excess_of(row(1, 0.5, **others), LIMITS)) == expected


def test_without_a_trigger_drift_is_no_limit() -> None:
    moved = row(1, 0.5, drift=1.2) | {"has_trigger": False}
    assert excess_of(moved, LIMITS) == {}
    choice = choose([moved], "style", LIMITS)
    assert choice is not None and choice.warnings == ()


@pytest.mark.parametrize(("drift", "limit", "step", "num"), [(0.59, 1.0, 2, 0), (0.61, 1.0, 2, 1), (0.61, 0.6, 1, 0)])
def test_much_drift_is_warned_of_or_left_out_as_the_limit_says(drift: float, limit: float, step: int, num: int) -> None:
    choice = choose([row(1, 0.5), row(2, 0.6, drift=drift)], "style", LimitsConfig(drift=limit))
    assert choice is not None and choice.row["step"] == step and len(choice.warnings) == num


def test_rows_without_the_likeness_choose_nothing() -> None:
    absent = row(100, 0.5)
    absent["scores"]["style"] = {"reason": "the base model draws like the set"}
    assert choose([absent], "style", LIMITS) is None and choose([], "style", LIMITS) is None


def test_training_stops_after_patience() -> None:
    rows = [row(100, 0.3), row(200, 0.7), row(300, 0.5), row(400, 0.69, memorisation=0.9)]
    assert should_stop(rows, "style", LIMITS, patience=2)
    assert not should_stop(rows, "style", LIMITS, patience=3)
    assert not should_stop([*rows, row(500, 0.9)], "style", LIMITS, patience=1)


def test_a_plateau_counts_as_training_in_vain_though_its_latest_is_chosen() -> None:
    rows = [row(step, 0.6, spread=0.3) for step in (100, 200, 300)]
    choice = choose(rows, "style", LIMITS)
    assert choice is not None and choice.row["step"] == 300
    assert should_stop(rows, "style", LIMITS, patience=2) and not should_stop(rows, "style", LIMITS, patience=3)
    assert plateau_start([], "style", LIMITS) is None


def random_rows(dice: random.Random) -> list[dict[str, Any]]:
    steps = dice.sample(range(100, 2000, 100), dice.randint(1, 8))
    return [
        row(
            step,
            dice.uniform(-0.2, 1.2),
            spread=dice.choice((0.0, 0.1, 0.5)),
            adherence=dice.uniform(0.6, 1),
            drift=dice.uniform(0, 1),
            leak=dice.uniform(-0.1, 0.4),
            memorisation=dice.uniform(0, 0.5),
        )
        for step in steps
    ]


@pytest.mark.parametrize("seed", range(60))
def test_the_rule_holds_for_any_rows(seed: int) -> None:
    """Properties of the rule, for random rows."""
    dice = random.Random(seed)
    rows = random_rows(dice)
    choice = choose(rows, "style", LIMITS)
    assert choice is not None
    shuffled = dice.sample(rows, len(rows))
    again = choose(shuffled, "style", LIMITS)
    assert again is not None and again.row is choice.row and again.reason == choice.reason
    fitting = [each for each in rows if not excess_of(each, LIMITS)]
    assert (choice.row in fitting) == bool(fitting) == ("exceeds them least" not in " ".join(choice.warnings))
    if fitting:
        best = max(each["scores"]["style"]["value"] for each in fitting)
        worse = dict(choice.row["scores"]["style"])
        assert best - worse["value"] <= 0.5  # where it is not the best, noise hides the difference
        kept = choose([each for each in rows if each in fitting], "style", LIMITS)
        assert kept is not None and kept.row is choice.row  # those beyond the limits have no influence
    least = choose([*rows, row(5000, min(each["scores"]["style"]["value"] for each in rows) - 5)], "style", LIMITS)
    assert least is not None and (least.row is choice.row or not fitting)
    json.dumps(best_content(choice, "style", LIMITS), allow_nan=False)
