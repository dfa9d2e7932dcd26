import math
from pathlib import Path

import numpy as np
import pytest

from finetune.rate.pairs import Pair, RatedImage
from finetune.rate.result import Points, count_votes, share_interval, wilson_interval


def pair(prompt: str, seed: int) -> Pair:
    images = [RatedImage(name, Path(name), f"{name}-{prompt}-{seed}") for name in ("A", "B")]
    left, right = images if seed % 2 else reversed(images)
    return Pair(f"{prompt}-{seed}", prompt, seed, left, right)


def test_wilson_bounds_are_those_of_its_tables() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for total, num, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson_interval(total, num)
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_votes_are_counted_whatever_the_side() -> None:
    pairs = [pair(prompt, seed) for prompt in ("cat", "dog") for seed in range(4)]
    votes = {each.key: f"A-{each.prompt}-{each.seed}" for each in pairs[:3]}
    votes |= {pairs[4].key: f"B-{pairs[4].prompt}-{pairs[4].seed}", pairs[5].key: None, "stranger": None}
    found = count_votes(pairs, votes, "A", "B")
    assert [vars(each) for each in found.prompts] == [
        {"prompt": "cat", "first": 3, "second": 0, "neither": 0},
        {"prompt": "dog", "first": 0, "second": 1, "neither": 1},
    ]
    assert found.share is not None and found.share.value == pytest.approx(3.5 / 5)
    turned = count_votes(pairs, votes, "B", "A")
    assert turned.share is not None and turned.share.value == pytest.approx(1.5 / 5)
    assert any("3 pairs without a vote" in line for line in found.sentences())


def test_no_vote_is_no_share() -> None:
    found = count_votes([pair("cat", 0)], {}, "A", "B")
    assert found.share is None and found.table() == [] and found.sentences() == ["No votes yet about 1 pair."]


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_interval_contains_the_truth_where_prompts_differ(share: float) -> None:
    """Votes about a prompt agree, as about images with one fault. Wilson alone is too narrow for them."""
    random, num_inside, num_by_wilson, num_trials = np.random.default_rng(0), 0, 0, 60
    for _ in range(num_trials):
        of_prompt = random.random(10) < share
        points: Points = {(f"{number}", seed): float(of_prompt[number]) for number in range(10) for seed in range(4)}
        found, alone = share_interval(points), wilson_interval(sum(points.values()), len(points))
        num_inside += found.low <= share <= found.high
        num_by_wilson += alone.low <= share <= alone.high
    assert num_inside >= 0.85 * num_trials > num_by_wilson


def test_a_few_equal_votes_prove_little() -> None:
    found = share_interval({("cat", seed): 1.0 for seed in range(3)})
    assert found.high == 1 and found.low < 0.5
    assert not math.isnan(share_interval({("cat", 0): 1.0, ("dog", 1): 0.0}).low)
