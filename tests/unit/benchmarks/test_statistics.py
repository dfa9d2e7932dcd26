"""The fixed figures by which benchmarks/methods.py compares methods."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from adaptation.statistics import drift, halves_distance, likeness, statistics, style_distance
from quality.features import unit_distance


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


def test_likeness_is_one_for_a_view_and_about_zero_for_the_unrelated() -> None:
    references = blocks(1)
    unit = unit_distance(references)
    assert likeness(references[:4], references[:5], unit) == 1.0
    assert abs(likeness(references[5:], references[:1], unit)) < 0.2
    assert drift(references, references, unit) == 0
    assert drift(references, np.roll(references, 1, axis=0), unit) == pytest.approx(1, abs=0.2)
