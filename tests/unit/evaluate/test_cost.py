import pytest

from finetune.evaluate.running.cost import Costs, Plan, affordable, told

ASKED = Plan(num_prompts=4, num_seeds=6, strengths=(0.25, 0.5, 0.75, 1.0, 1.2, 1.4))
COSTS = Costs(kinds=(2, 4, 4, 4), seconds_per_image=0.5, seconds_per_step=1.0, steps=1000, every=100)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1.0, ASKED),
        (0.41, Plan(4, 6, 1, (0.5, 0.75, 1.0, 1.2, 1.4))),
        (0.35, Plan(4, 6)),
        (0.25, Plan(4, 4)),
        (0.1, Plan(1, 4)),
        (0.05, Plan(1, 4, 2)),
        (0.0, Plan(1, 4, 10)),
    ],
)
def test_strengths_go_first_then_seeds_prompts_and_checkpoints(most: float, expected: Plan) -> None:
    found = affordable(ASKED, COSTS, most)
    assert found == expected
    assert COSTS.share(found) <= most or found.widened * COSTS.every >= COSTS.steps


def test_the_share_is_that_of_scoring_in_all_the_time() -> None:
    """Score 10 checkpoints and the base model beside 1,000 s of steps."""
    seconds = 11 * 14 * 4 * 0.5
    assert COSTS.share(Plan(4, 4)) == pytest.approx(seconds / (seconds + 1000))


def test_what_was_reduced_is_told() -> None:
    assert told(ASKED, ASKED, COSTS, 1.0) is None
    text = told(ASKED, Plan(1, 4, 2), COSTS, 0.05) or ""
    for words in (
        "other strengths: none",
        "4 of 6 seeds",
        "at most 1 prompts",
        "every 200 steps instead of 100",
        "about 5%",
    ):
        assert words in text
