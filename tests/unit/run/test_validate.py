import pytest

from finetune.run.validate import is_validated


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (100, 400, [12, 25, 50, 100, 200, 300, 400]),
        (100, 40, [12, 25, 40]),
        (16, 40, [2, 4, 8, 16, 32, 40]),
        (10, 25, [10, 20, 25]),
    ],
)
def test_early_steps_are_validated_more_often(every: int, steps: int, expected: list[int]) -> None:
    assert [step for step in range(1, steps + 1) if is_validated(step, every, steps)] == expected
