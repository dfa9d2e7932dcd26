from pathlib import Path

import pytest

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.drawing.grid import Axis, read_axes
from finetune.config.sections import ModelConfig


def test_axes_are_read_and_sorted() -> None:
    axes, wrong = read_axes(["y=seed:0,1,2", "x=strength:0.5,1", "z=sampler:ddim,k_euler"], 1)
    assert wrong == [] and axes == [
        Axis("x", "strength", ((0.5,), (1.0,))),
        Axis("y", "seed", (0, 1, 2)),
        Axis("z", "sampler", ("DDIM", "Euler")),
    ]
    assert [axes[0].label(0), axes[2].label(1)] == ["strength 0.5", "sampler Euler"]


def test_a_bar_separates_values_with_commas() -> None:
    axes, wrong = read_axes(["x=strength:0.5,1|1,0.5", "y=negative_prompt:blurry, dull|"], 1)
    assert wrong == [] and [axis.values for axis in axes] == [((0.5, 1.0), (1.0, 0.5)), ("blurry, dull", "")]
    assert axes[0].label(1) == "strength 1, 0.5"


@pytest.mark.parametrize(
    ("given", "num_seeds", "word"),
    [
        (["strength:1"], 1, "expected x, y or z"),
        (["w=strength:1"], 1, "expected x, y or z"),
        (["x=strengths:1"], 1, "Did you mean strength?"),
        (["x=seed:a"], 1, "got a, expected one whole number"),
        (["x=seed"], 1, "got nothing"),
        (["x=seed:1,1"], 1, "expected different values"),
        (["x=seed:1", "x=width:8"], 1, "given twice"),
        (["x=seed:1", "y=seed:2"], 1, "given twice"),
        (["y=seed:1"], 1, "expected an x axis"),
        (["x=seed:1"], 2, "Omit num_seeds"),
        (["x=prompt:a"], 1, "prompt takes no values"),
    ],
)
def test_wrong_axes_are_named(given: list[str], num_seeds: int, word: str) -> None:
    (problem,) = read_axes(given, num_seeds)[1]
    assert problem.startswith("grid: ") and word in problem
    with pytest.raises(ValueError, match="grid: "):
        GenerateConfig(ModelConfig("model"), ("a",), Path("out"), grid=tuple(given), num_seeds=num_seeds)
