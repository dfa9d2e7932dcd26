import numpy as np
import pytest

from finetune.evaluate.intervals import mean_interval, prompts_interval, weighted_interval


def test_a_table_of_equal_cells_has_no_width() -> None:
    found = mean_interval(np.full((5, 4), 0.25))
    assert found.value == 0.25 and found.low == pytest.approx(0.25) and found.high == pytest.approx(0.25)


def test_the_same_table_gives_the_same_bits() -> None:
    cells = np.random.default_rng(0).random((7, 4))
    assert mean_interval(cells) == mean_interval(cells.copy())


def test_the_mean_is_the_one_of_drawing_rows_and_columns_by_hand() -> None:
    """Compare with loops over drawn rows and columns."""
    cells = np.random.default_rng(1).random((6, 3))
    random = np.random.default_rng(2)
    by_hand = [
        np.mean([cells[row, column] for row in random.integers(0, 6, 6) for column in columns])
        for columns in random.integers(0, 3, (4000, 3))
    ]
    low, high = np.quantile(by_hand, [0.025, 0.975])
    found = mean_interval(cells)
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)


@pytest.mark.parametrize("axis", [0, 1])
def test_differences_between_prompts_and_between_seeds_widen_the_interval(axis: int) -> None:
    effect = np.array([0.0, 0.0, 1.0, 1.0])
    cells = np.broadcast_to(effect[:, None] if axis == 0 else effect[None], (4, 4))
    found = mean_interval(cells)
    assert found.low < 0.2 and found.high > 0.8


@pytest.mark.parametrize("spread", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_intervals_hold_the_true_mean_as_often_as_they_say(spread: tuple[float, float]) -> None:
    """At least 88 of 100 intervals have the true mean, 0."""
    random, held = np.random.default_rng(3), 0
    for _ in range(100):
        prompts, seeds = random.normal(0, spread[0], (20, 1)), random.normal(0, spread[1], (1, 20))
        found = mean_interval(prompts + seeds + random.normal(0, 0.3, (20, 20)))
        held += found.contains_zero
    assert held >= 88


def test_a_statistic_of_prompts_is_bounded_by_its_extremes() -> None:
    values = np.array([1.0, 2.0, 4.0])
    found = prompts_interval(lambda chosen: float(values[chosen].mean()), 3)
    assert found.value == pytest.approx(7 / 3) and 1 <= found.low < found.value < found.high <= 4


def test_weights_of_images_average_to_one() -> None:
    found = weighted_interval(lambda weights: float(weights.sum()), 4, 3)
    assert found.value == found.low == found.high == 12
