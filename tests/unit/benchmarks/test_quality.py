"""The features and choices by which benchmarks/base_quality.py measures a base model."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from quality.features import ranks, shapes, shares
from quality.icons import NUM_CANDIDATES, by_concept, held_out_pairs, known_icons, training_icons

from tools.icons import Icon

ICONS = Path(__file__).parents[4] / "shared" / "data" / "icons"
SETS = tuple("abcdef")


def drawn(*lines: tuple[int, int, int, int], ink: str = "black", paper: str = "white", width: int = 3) -> np.ndarray:
    image = Image.new("RGB", (64, 64), paper)
    for line in lines:
        ImageDraw.Draw(image).line(line, ink, width)
    return np.asarray(image, np.float32) / 255


def icons_of(num_concepts: int) -> list[Icon]:
    """Icons of each concept in six sets, one with two variants."""
    styles = [("a", "bold"), *((name, f"style {name}") for name in SETS)]
    return [
        Icon(Path("t"), 0, f"concept {number}", style, of_set)
        for number in range(num_concepts)
        for of_set, style in styles
    ]


def test_a_shape_keeps_its_feature_in_other_colours_and_strokes_and_not_in_another_direction() -> None:
    cross, flat = ((12, 12, 52, 52), (12, 52, 52, 12)), ((8, 20, 56, 20), (8, 44, 56, 44))
    images = [drawn(*cross), drawn(*cross, ink="white", paper="navy"), drawn(*cross, width=5), drawn(*flat)]
    found = shapes(np.stack(images))
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    likeness = found[1:] @ found[0]
    assert likeness[0] > 0.95 and likeness[1] > 0.9 and likeness[2] < 0.6


def test_white_paper_has_a_feature_without_numbers_that_are_not_finite() -> None:
    assert np.isfinite(shapes(np.ones((2, 64, 64, 3)))).all()


def test_ranks_count_the_references_that_are_nearer_than_an_images_own() -> None:
    references = np.array([[0.0], [1.0], [5.0]])
    found = ranks(np.array([[0.1], [0.2], [0.4]]), references)
    assert found.tolist() == [0, 1, 2]
    assert shares(found) == {"top_1": pytest.approx(1 / 3), "top_5": 1.0}


def test_pairs_are_held_out_drawings_once_each_with_49_other_concepts_of_their_style() -> None:
    icons = icons_of(60)
    pairs = held_out_pairs(icons, 400)
    assert {(pair.icon.concept, pair.icon.set) for pair in pairs} == {
        (icon.concept, icon.set) for icon in icons if icon.is_held_out
    }
    assert max(Counter((pair.icon.concept, pair.icon.set) for pair in pairs).values()) == 1
    for pair in pairs:
        assert {other.style for other in pair.others} == {pair.icon.style}
        assert len({other.concept for other in pair.others} - {pair.icon.concept}) == NUM_CANDIDATES - 1
        assert pair.elsewhere.concept == pair.icon.concept and pair.elsewhere.set != pair.icon.set
    assert held_out_pairs(icons, 3) == pairs[:3] and held_out_pairs(icons_of(49), 400) == []


def test_captions_of_training_name_each_concept_once_and_nothing_that_is_held_out() -> None:
    chosen = training_icons(icons_of(60), 30)
    assert len(chosen) == len(by_concept(chosen)) == 30
    assert not any(icon.is_held_out for icon in chosen)


def test_a_folder_without_icons_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no Parquet files with icons"):
        known_icons(tmp_path)


@pytest.mark.skipif(not ICONS.exists(), reason="needs ../shared/data/icons, whose held-out pairs it counts")
def test_the_real_icons_have_400_held_out_pairs() -> None:
    assert len(held_out_pairs(known_icons(ICONS), 400)) == 400
