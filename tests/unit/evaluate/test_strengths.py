from typing import Any

from finetune.config.evaluate import LimitsConfig
from finetune.evaluate.running.strengths import usable_strengths


def row(strength: float, style: float, adherence: float, spread: float = 0.001) -> dict[str, Any]:
    cells = [[style - spread, style + spread]] * 2
    likeness = {"value": style, "low": style - spread, "high": style + spread, "cells": cells}
    fit = {"value": adherence, "low": adherence, "high": adherence, "detail": {"base": 0.9}}
    return {"step": 100, "target": "a", "strength": strength, "scores": {"style": likeness, "adherence": fit}}


def test_the_best_strength_is_within_the_limits_and_the_usable_ones_have_half_its_likeness() -> None:
    rows = [row(0.25, 0.1, 0.9), row(0.5, 0.4, 0.9), row(0.75, 0.6, 0.8), row(1.0, 0.8, 0.7), row(1.2, 0.9, 0.6)]
    found = usable_strengths(rows, "style", LimitsConfig()) or {}
    assert found["best"] == 0.75 and found["usable"] == [0.5, 0.75]
    assert "strength 0.75" in found["reason"] and len(found["rows"]) == 5


def test_where_no_difference_shows_the_strength_nearest_to_1_is_taken() -> None:
    rows = [row(strength, 0.5 + 0.01 * strength, 0.9, spread=0.2) for strength in (0.5, 1.0, 1.4)]
    alike = [
        each | {"scores": each["scores"] | {"style": each["scores"]["style"] | {"cells": cells}}}
        for each, cells in zip(rows, ([[0.3, 0.7]] * 2, [[0.7, 0.3]] * 2, [[0.3, 0.72]] * 2), strict=True)
    ]
    assert (usable_strengths(alike, "style", LimitsConfig()) or {})["best"] == 1.0


def test_none_may_be_usable() -> None:
    found = usable_strengths([row(0.5, 0.4, 0.1), row(1.0, 0.9, 0.0)], "style", LimitsConfig()) or {}
    assert found["best"] is None and found["usable"] is None
    assert usable_strengths([], "style", LimitsConfig()) is None


def test_the_best_is_usable_where_all_likeness_is_below_0() -> None:
    rows = [row(0.5, -0.0002, 0.9), row(1.0, -0.0001, 0.9)]
    found = usable_strengths(rows, "style", LimitsConfig()) or {}
    assert found["best"] == 1.0 and found["usable"] == [1.0, 1.0]
