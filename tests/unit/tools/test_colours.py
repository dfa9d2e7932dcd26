"""Colours of drawings, of copies, and in captions."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tools.colours import HUES, main_colour, named, recoloured

RGB = {"red": (230, 46, 46), "yellow": (255, 214, 51), "blue": (54, 123, 217), "green": (50, 166, 62)}


def pictogram(colour: str, side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, side - 8, side - 8), fill=RGB[colour])
    draw.ellipse((20, 20, 28, 28), fill="black")  # an eye that keeps its colour
    return image


@pytest.mark.parametrize("colour", RGB)
def test_the_main_colour_is_what_most_of_the_drawing_has(colour: str) -> None:
    assert main_colour(pictogram(colour)) == colour


def test_grey_and_motley_images_have_none() -> None:
    assert main_colour(Image.new("RGB", (16, 16), "white")) is None
    assert main_colour(Image.new("RGB", (16, 16), (90, 90, 90))) is None
    motley = Image.new("RGB", (16, 16), RGB["red"])
    motley.paste(RGB["blue"], (0, 0, 8, 16))
    assert main_colour(motley) is None


@pytest.mark.parametrize("new", sorted(set(HUES) - {"yellow"}))
def test_a_recoloured_image_has_the_new_colour_and_keeps_paper_and_eye(new: str) -> None:
    image = pictogram("yellow")
    copy = recoloured(image, "yellow", new)
    assert main_colour(copy) == new
    before, after = np.asarray(image, dtype=int), np.asarray(copy, dtype=int)
    assert np.abs(after[0, 0] - 255).max() <= 1 and np.abs(after[24, 24]).max() <= 1
    assert np.abs(after - before)[40, 40].max() > 40


@pytest.mark.parametrize(
    ("caption", "old", "expected"),
    [
        ("car", "red", "blue car"),
        ("red apple", "red", "blue apple"),
        ("large green circle", "green", "large blue circle"),
        ("black cat", "yellow", "black cat"),  # its stated colour is not the one that is altered
    ],
)
def test_a_copy_is_named_by_its_colour(caption: str, old: str, expected: str) -> None:
    assert named(caption, old, "blue") == expected
