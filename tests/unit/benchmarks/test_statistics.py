"""The fixed figures by which benchmarks/methods.py compares methods."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from quality.features import unit_distance
from style_statistics import (
    concept_figures,
    drift,
    halves_distance,
    likeness,
    statistics,
    style_distance,
)


def blocks(seed: int, count: int = 20) -> np.ndarray:
    """Images of a few rectangles each, dark on white."""
    random = np.random.default_rng(seed)
    pictures = np.ones((count, 64, 64, 3))
    for picture in pictures:
        for top, left in random.integers(4, 44, (3, 2)):
            picture[top : top + 14, left : left + 14] = 0.1
    return pictures


def test_statistics_of_a_red_image_with_one_line_are_those_worked_out_by_hand() -> None:
    picture = np.zeros((1, 64, 64, 3))
    picture[..., 0] = 1.0
    picture[0, :, 32] = 1.0  # a white line: its pixels and those on its left have another neighbour
    histogram, edges, saturation = statistics(picture)
    assert histogram[3 * 16] == 63 / 64 and histogram[63] == 1 / 64 and histogram.sum() == 1
    assert edges == 2 / 64 and saturation == 63 / 64


def test_a_style_has_no_distance_to_itself_and_all_of_it_to_its_opposite() -> None:
    black, white = np.zeros((2, 64, 64, 3)), np.ones((3, 64, 64, 3))
    assert style_distance(white, white)["total"] == 0
    assert halves_distance(white) == 0 and 0 < halves_distance(np.concatenate([black, white])) < 1
    assert style_distance(black, white) == {"colours": 1.0, "edges": 0.0, "saturation": 0.0, "total": 1.0}


def test_concepts_are_known_in_inverted_and_coloured_drawings_and_not_in_others() -> None:
    references = blocks(0)
    for same in (references, 1 - references, references * [0.9, 0.4, 0.2]):
        assert concept_figures(same, references) == {"nearer": 1.0, "top_tenth": 1.0}
    other = concept_figures(np.roll(references, 1, axis=0), references)
    assert other["top_tenth"] < 0.3 and abs(other["nearer"] - 0.5) < 0.3


def test_likeness_is_one_for_a_view_and_about_zero_for_the_unrelated() -> None:
    references = blocks(1)
    unit = unit_distance(references)
    assert likeness(references[:4], references[:5], unit) == 1.0
    assert abs(likeness(references[5:], references[:1], unit)) < 0.2
    assert drift(references, references, unit) == 0
    assert drift(references, np.roll(references, 1, axis=0), unit) == pytest.approx(1, abs=0.2)
