import re

import pytest

from finetune.report.charts import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    TOP,
    Chart,
    Line,
    Mark,
    line_chart,
    number,
    smoothed,
    thinned,
    ticks,
)


def test_a_constant_stays_itself_when_smoothed() -> None:
    points = tuple((float(step), 2.0) for step in range(100))
    assert [value for _, value in smoothed(points)] == pytest.approx([2.0] * 100)


def test_a_smoothed_line_passes_over_missing_values() -> None:
    assert smoothed(((1.0, 1.0), (2.0, None), (3.0, 1.0))) == ((1.0, 1.0), (3.0, 1.0))


def test_thinning_keeps_every_spike_and_gap() -> None:
    points = [(float(step), 1.0) for step in range(10_000)]
    points[4321] = (4321.0, 9.0)
    kept = thinned([*points[:9000], *((float(step), None) for step in range(9000, 10_000))], 200)
    assert len(kept) <= 200 and (4321.0, 9.0) in kept and kept[-1][1] is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (95.0, 205.0, [100.0, 120.0, 140.0, 160.0, 180.0, 200.0])],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (0.10423, "0.1042"), (12345.0, "12,345")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_missing_value_breaks_the_line() -> None:
    drawn = line_chart(Chart("Loss", "loss", (Line("raw", ((0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0))),)))
    (path,) = re.findall(r'class="line c1 plain" d="([^"]*)"', drawn)
    assert (path.count("M"), path.count("L")) == (2, 1)


def test_intervals_and_marked_steps_are_within_the_chart() -> None:
    line = Line("style", ((10.0, 0.5), (20.0, 0.6)), "dots", spread=((10.0, 0.1, 0.9), (20.0, 0.5, 0.7)))
    drawn = line_chart(Chart("style", "", (line,), marks=(Mark("step 40 is chosen", 40.0, 2),)))
    spreads = re.findall(r'class="spread c1" d="M([\d.]+) ([\d.]+)V([\d.]+)"', drawn)
    heights = [(float(low) - float(high)) for _, low, high in spreads]
    assert len(spreads) == 2 and heights[0] == pytest.approx(4 * heights[1], rel=0.02)
    assert all(TOP <= float(y) <= HEIGHT - BOTTOM for _, *both in spreads for y in both)
    (place,) = re.findall(r'class="mark c2" d="M([\d.]+) ', drawn)
    assert float(place) == 560 - RIGHT  # the marked step is the last one that is drawn
    assert "step 40 is chosen" in drawn and "style: 0.5 [0.1, 0.9]" in drawn


def test_a_chart_without_a_finite_value_is_left_out() -> None:
    assert line_chart(Chart("Loss", "loss", (Line("raw", ((1.0, None),)),))) == ""
