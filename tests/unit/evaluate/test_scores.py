"""Scores of made-up evidence, whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from finetune.evaluate.evidence import Embedded, Evidence, PromptFit
from finetune.evaluate.grid import Grid, GridPrompt, Kind
from finetune.evaluate.results import Score
from finetune.evaluate.scores import SCORES
from finetune.evaluate.scores.discrepancy import Kernel, gaussian, off_diagonal_mean, polynomial
from finetune.evaluate.scores.diversity import vendi
from finetune.import_named import import_named

KINDS: tuple[Kind, ...] = ("user", "held_out", "new_content", "new_content", "neutral", "neutral")
GRID = Grid(tuple(GridPrompt(f"p{n}", f"p{n}", kind) for n, kind in enumerate(KINDS)), (0, 1, 2, 3), True, ("c", "d"))
P, S, D, N = len(KINDS), 4, 24, 12
DICE = np.random.default_rng(0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def embedded(toward: float = 0.0, seed: int = 0, num_held_out: int = 0) -> Embedded:
    """Samples at a share of the way to the training images."""
    random = np.random.default_rng(seed)
    shift = np.zeros(D)
    shift[:6] = 3.0
    contents = random.normal(0, 1, (P, 1, D))
    base = contents + random.normal(0, 0.5, (P, S, D))
    own = base + random.normal(0, 0.2, (P, S, D))
    training, held_out = (shift + random.normal(0, 1, (num, D)) for num in (N, num_held_out))
    return Embedded("made up", own + toward * shift, base, training, held_out)


def images(seed: int, *shape: int) -> np.ndarray:
    """Smooth drawings of two colours."""
    random = np.random.default_rng(seed)
    found = np.full((*shape, 16, 16, 3), 240, np.uint8)
    found[..., 4:12, 4:12, :] = random.integers(30, 200, (*shape, 1, 1, 3))
    return found


def fit(own: float, *, captions: float = -1.0) -> PromptFit:
    random = np.random.default_rng(1)
    table = np.full((P, S), own)
    return PromptFit("made up", table, random.normal(-1, 0.01, (P, S, 5)), np.full((P, S, 2), captions))


def evidence(**changes: object) -> Evidence:
    return replace(
        Evidence(
            GRID,
            style=embedded(),
            content=embedded(seed=1),
            layout=embedded(seed=2),
            fit=fit(0.0),
            base_fit=fit(0.0),
            samples=images(0, P, S),
            not_finite=np.zeros((P, S), bool),
            training=images(1, N),
            training_names=tuple(f"{n}.png" for n in range(N)),
        ),
        **changes,
    )


def score(name: str, given: Evidence) -> Score:
    found: Score = import_named(SCORES[name])(given)
    assert ("Lower is better" in found.meaning) != ("Higher is better" in found.meaning)
    if found.value is not None:
        assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
        assert found.num_images > 0 and found.features
    else:
        assert found.reason
    return found


@pytest.mark.parametrize("name", ["style", "subject"])
@pytest.mark.parametrize("num_held_out", [0, 10])
def test_likeness_goes_from_zero_at_the_base_model_to_one_at_the_set(name: str, num_held_out: int) -> None:
    use = {"style": "style", "subject": "content"}[name]
    values = []
    for toward in (0.0, 0.5, 1.0):
        found = score(name, evidence(**{use: embedded(toward, num_held_out=num_held_out)}))
        assert found.num_images == 16 and found.prompts == (0, 1, 2, 3)
        values.append(found.value)
    assert values[0] == pytest.approx(0, abs=0.1) and values[2] == pytest.approx(1, abs=0.3)
    assert values[0] < values[1] < values[2]


def test_a_base_model_that_draws_like_the_set_gives_no_likeness() -> None:
    given = embedded()
    given = replace(given, training=given.base.reshape(-1, D)[:N] + DICE.normal(0, 0.1, (N, D)))
    found = score("style", evidence(style=given))
    assert found.value is None and "as near to the training set" in (found.reason or "")


def test_drift_is_zero_for_the_base_model_and_one_for_unrelated_images() -> None:
    given = embedded()
    still = score("drift", evidence(content=replace(given, samples=given.base)))
    moved = score("drift", evidence(content=replace(given, samples=given.base[[0, 1, 2, 3, 5, 4]])))
    assert still.value == pytest.approx(0, abs=1e-9) and still.num_images == 8
    assert moved.value == pytest.approx(1, abs=0.3)


def test_without_a_trigger_drift_says_so() -> None:
    assert "no trigger" in score("drift", evidence(grid=replace(GRID, has_trigger=False))).meaning


def test_the_vendi_score_is_that_of_a_direct_computation() -> None:
    """A general solver for eigenvalues, and the closed form of two images."""
    vectors = unit(DICE.normal(0, 1, (7, 5)))
    kernel = vectors @ vectors.T / 7
    values = np.clip(np.linalg.eigvals(kernel).real, 1e-300, None)
    assert vendi(vectors) == pytest.approx(math.exp(-sum(value * math.log(value) for value in values)), rel=1e-6)
    cosine = 0.3
    pair = np.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    halves = [(1 + cosine) / 2, (1 - cosine) / 2]
    assert vendi(pair) == pytest.approx(math.exp(-sum(half * math.log(half) for half in halves)))
    assert vendi(np.eye(4)) == pytest.approx(4) and vendi(np.ones((4, 1))) == pytest.approx(1)


def test_diversity_falls_where_seeds_give_one_image() -> None:
    given = embedded()
    same = replace(given, samples=np.repeat(given.base[:, :1], S, axis=1))
    assert score("diversity", evidence(content=same)).value == pytest.approx(1)
    assert score("diversity", evidence(content=given)).value > 1.2


def test_adherence_counts_other_prompts_that_fit_worse() -> None:
    right, wrong = score("adherence", evidence()), score("adherence", evidence(fit=fit(-2.0)))
    assert right.value == 1 and wrong.value == 0 and right.detail["base"] == 1
    chance = score("adherence", evidence(fit=replace(fit(-1.0), others=np.full((P, S, 5), -1.0))))
    assert chance.value == 0.5


def test_a_measure_that_judges_style_is_joined_by_content() -> None:
    """Here all fits are chance, so contents decide."""
    chance = replace(fit(-1.0), others=np.full((P, S, 5), -1.0), judges_style=True)
    content = embedded(1.0)
    found = score("adherence", evidence(fit=chance, content=content))
    assert found.detail["by_loss"] == 0.5 and found.detail["by_content"] == 1 and found.value == 1
    permuted = score(
        "adherence", evidence(fit=chance, content=replace(content, samples=np.roll(content.samples, 1, 0)))
    )
    assert permuted.detail["by_content"] < 0.6 and permuted.value is not None and permuted.value < 0.67
    random = replace(content, samples=DICE.normal(0, 1, (P, S, D)))
    assert score("adherence", evidence(fit=chance, content=random)).detail["by_content"] == pytest.approx(0.5, abs=0.2)
    assert " and made up" in found.features


def test_a_leak_is_what_the_base_model_does_not_do() -> None:
    assert score("leak", evidence()).value == 0
    leaking = score("leak", evidence(fit=fit(0.0, captions=0.5)))
    assert leaking.value == 1 and leaking.num_images == 8 and leaking.prompts == (2, 3)
    assert score("leak", evidence(fit=fit(0.0, captions=0.5), base_fit=fit(0.0, captions=0.5))).value == 0
    half = fit(0.0, captions=0.5)
    half.captions[:, :, 1] = np.nan  # what the prompt asks for does not count
    assert score("leak", evidence(fit=half)).value == 1
    assert score("leak", evidence(fit=fit(0.0, captions=np.nan))).value is None


def test_a_leak_by_a_loss_that_judges_style_needs_the_contents_too() -> None:
    """Captions fit best in both; the contents differ."""
    leaking_fit = {"fit": replace(fit(0.0, captions=0.5), judges_style=True)}
    content = embedded(1.0, seed=1)
    in_style = score("leak", evidence(content=content, **leaking_fit))
    assert in_style.detail["by_loss"] == 1 and in_style.value is not None and in_style.value < 0.1
    contents = np.random.default_rng(3).normal(0, 1, (2, D))  # of two training images, also where others were asked
    training, samples = content.training.copy(), content.samples.copy()
    training[::2], training[1::2] = contents[0], contents[1]
    samples[2:4] = contents[0]
    shown = score("leak", evidence(content=replace(content, samples=samples, training=training), **leaking_fit))
    assert shown.value == shown.detail["by_content"] == pytest.approx(0.5, abs=0.01)
    assert score("leak", evidence(content=replace(content, samples=samples, training=training))).value == 0


def test_copies_are_named_with_their_training_image() -> None:
    given = embedded(1.0, num_held_out=9)
    fresh = score("memorisation", evidence(layout=given))
    copied = given.samples.copy()
    copied[1, 2], copied[3, 0] = given.training[7], given.training[4]
    found = score("memorisation", evidence(layout=replace(given, samples=copied)))
    named = {(each["prompt"], each["seed"]): each["training_image"] for each in found.detail["copies"]}
    assert named[1, 2] == "7.png" and named[3, 0] == "4.png"
    assert found.value == pytest.approx(fresh.value + 2 / 16) and found.detail["num_calibrating"] == N + 9


def test_mirrored_copies_are_found() -> None:
    given = embedded(1.0)
    mirrored = given.training[:, ::-1].copy()
    copied = given.samples.copy()
    copied[0, 0] = mirrored[5]
    found = score("memorisation", evidence(layout=replace(given, samples=copied, mirrored=mirrored)))
    assert ("5.png", 0) in {(each["training_image"], each["prompt"]) for each in found.detail["copies"]}


@pytest.mark.parametrize("num", [4, 40])
def test_new_images_of_the_set_raise_as_many_false_alarms_as_stated(num: int) -> None:
    """Over 60 sets, the rate is the stated one."""
    rates, levels = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        base = random.normal(0, 1, (P, S, D)) - 2
        given = Embedded("made up", random.normal(0, 1, (P, S, D)), base, random.normal(0, 1, (num, D)), base[0, :0])
        found = score("memorisation", evidence(layout=given, training_names=tuple(map(str, range(num)))))
        rates.append(found.value)
        levels.append(found.detail["false_alarms"])
    assert levels[0] == pytest.approx(max(0.05, 2 / (num + 1)))
    assert np.mean(rates) == pytest.approx(levels[0], abs=0.06)


def test_duplicates_in_the_training_set_do_not_hide_copies() -> None:
    given = embedded(1.0)
    training = given.training.copy()
    training[1::2] = training[::2]
    copied = given.samples.copy()
    copied[0, 0] = training[4]
    doubled = replace(given, training=training, samples=copied, held_out=embedded(1.0, 5, 20).held_out)
    found = score("memorisation", evidence(layout=doubled))
    assert (0, 0) in {(each["prompt"], each["seed"]) for each in found.detail["copies"]}


def test_faults_are_told_apart() -> None:
    samples, not_finite = images(0, P, S), np.zeros((P, S), bool)
    samples[0, 0] = 0
    samples[0, 1] = 128
    samples[1, 0] = DICE.integers(0, 256, (16, 16, 3))
    samples[1, 1], samples[1, 1, ..., 0] = 0, 255
    samples[1, 1, :3] = 90
    samples[2, 0], not_finite[2, 0] = 0, True
    found = score("faults", evidence(samples=samples, not_finite=not_finite))
    assert found.detail == {"not_numbers": 1, "black": 1, "flat": 1, "noise": 1, "saturated": 1}
    assert found.value == pytest.approx(5 / 24) and score("faults", evidence()).value == 0


def test_what_training_images_are_like_is_no_fault() -> None:
    saturated = np.zeros((P, S, 16, 16, 3), np.uint8)
    saturated[..., :8, :, 0] = 255
    rough = DICE.integers(0, 256, (P, S, 16, 16, 3), dtype=np.uint8)
    for samples in (saturated, rough):
        assert score("faults", evidence(samples=samples, training=samples[0])).value == 0


def test_small_sets_have_no_kid_and_cmmd() -> None:
    for name in ("kid", "cmmd"):
        found = score(name, evidence())
        assert found.value is None and "16 images drawn and 12" in (found.reason or "")


@pytest.mark.parametrize("name", ["kid", "cmmd"])
def test_discrepancies_are_near_zero_for_equal_distributions(name: str) -> None:
    grid = replace(GRID, prompts=tuple(GridPrompt(f"p{n}", f"p{n}", "user") for n in range(20)))
    random = np.random.default_rng(3)
    near, far = (Embedded("made up", random.normal(shift, 1, (20, 4, D)), random.normal(-1, 1, (20, 4, D)),
                          random.normal(0, 1, (60, D)), np.zeros((0, D))) for shift in (0.0, 1.0))  # fmt: skip
    values = [score(name, evidence(grid=grid, style=given, content=given)) for given in (near, far)]
    assert values[0].low is not None and values[0].value is not None and values[1].value is not None
    assert abs(values[0].value) < 0.1 * values[1].value and values[1].low > 0


def unbiased(first: np.ndarray, second: np.ndarray, kernel: Kernel) -> float:
    """Estimate the squared discrepancy of two sets of vectors."""
    one, other = (off_diagonal_mean(kernel(each, each), np.ones(len(each))) for each in (first, second))
    return one + other - 2 * float(kernel(first, second).mean())


def test_the_discrepancy_is_unbiased() -> None:
    """Small sets of one distribution have a mean of 0; loops agree."""
    random = np.random.default_rng(4)
    first, second = random.normal(0, 1, (5, 3)), random.normal(0, 1, (7, 3))
    kernel = [[polynomial(a[None], b[None]).item() for b in (*first, *second)] for a in (*first, *second)]
    direct = sum(kernel[i][j] for i in range(5) for j in range(5) if i != j) / 20
    direct += sum(kernel[i][j] for i in range(5, 12) for j in range(5, 12) if i != j) / 42
    direct -= 2 * sum(kernel[i][j] for i in range(5) for j in range(5, 12)) / 35
    assert unbiased(first, second, polynomial) == pytest.approx(direct)
    pairs = unit(random.normal(0, 1, (3000, 2, 6, 4)))
    found = [unbiased(one, other, gaussian) for one, other in pairs]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(3000)


def test_a_written_score_keeps_what_it_has() -> None:
    row = score("drift", evidence()).row()
    assert {"meaning", "better", "features", "value", "low", "high", "num_images", "prompts", "cells"} <= set(row)
    assert "reason" not in row and "detail" not in row
    absent = score("kid", evidence()).row()
    assert "value" not in absent and absent["reason"]
