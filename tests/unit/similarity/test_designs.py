from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from finetune.similarity.agreement import CERTAIN
from finetune.similarity.designs import has_other_words, is_recoloured
from tests.unit.similarity.test_agreement import score, texture

TEXTS = (
    ("Growth of the market", "More customers in spring", "Prices stay where they are"),
    ("What the plan costs", "Two teams for a quarter", "Rent and new machines"),
    ("Next steps for us", "A letter to every school", "Summer in the garden"),
)


def slide(texts: tuple[str, str, str], page: str = "white", size: tuple[int, int] = (640, 360)) -> Image.Image:
    image = Image.new("RGB", size, page)
    draw, ink, unit = ImageDraw.Draw(image), "black" if page == "white" else "white", size[1] // 18
    draw.rectangle((0, 0, size[0], 3 * unit), "#c0392b")
    for row, text in enumerate(texts):
        font = ImageFont.load_default(int(unit * (1.6 if row == 0 else 1.1)))
        draw.text((2 * unit, unit * (0.7 if row == 0 else 3 + 2 * row)), text, ink, font)
    draw.ellipse((size[0] - 3 * unit, size[1] - 3 * unit, size[0] - unit, size[1] - unit), "#c0392b")
    return image


def logo(colour: str, ink: str = "#111111") -> Image.Image:
    image = Image.new("RGB", (400, 400), colour)
    for x in (90, 160, 230):
        ImageDraw.Draw(image).ellipse((x, 140 + x % 80, x + 100, 240 + x % 80), outline=ink, width=12)
    return image


@pytest.mark.parametrize("page", ["white", "#1e1e2e"])
def test_slides_of_one_layout_with_other_words_do_not_agree(page: str) -> None:
    slides = [slide(texts, page) for texts in TEXTS]
    assert max(score(one, other) for one, other in combinations(slides, 2)) < CERTAIN


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((320, 180)),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        lambda image: ImageOps.expand(image, 30, "black"),
        lambda image: image.crop((16, 9, 624, 351)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    ],
    ids=["smaller", "blurred", "framed", "cropped", "darker"],
)
def test_an_edit_of_a_slide_agrees(edit) -> None:
    assert score(slide(TEXTS[0]), edit(slide(TEXTS[0]))) >= CERTAIN


def test_one_logo_on_other_colours_does_not_agree() -> None:
    colours = ["white", "#f4d03f", "#e74c3c", "#3498db", "#bdc3c7", "#34495e"]
    assert max(score(logo(one), logo(other)) for one, other in combinations(colours, 2)) < CERTAIN
    assert score(logo("#f4d03f"), logo("#f4d03f").resize((200, 200))) >= CERTAIN


def test_a_thing_before_a_wall_may_be_darker() -> None:
    image = Image.new("RGB", (400, 400), "white")
    image.paste(texture(5, 200, 200), (100, 100))
    assert score(image, ImageEnhance.Brightness(image).enhance(0.6)) >= CERTAIN
    assert score(image, image.point([round(255 * (level / 255) ** 1.6) for level in range(256)] * 3)) >= CERTAIN


def test_another_background_is_explained_by_what_the_drawing_becomes() -> None:
    rng = np.random.default_rng(0)
    image = np.full((60, 60, 3), 250.0)
    image[20:40, 20:40] = rng.uniform(0, 200, (20, 20, 1))
    covered = np.ones((60, 60), bool)
    other = image.copy()
    other[image == 250] = 150
    assert is_recoloured(image, other, covered)
    assert not is_recoloured(image, image * 0.6, covered) and not is_recoloured(image, image, covered)
    tinted = image.copy()
    tinted[image[..., 0] == 250] = 250, 200, 120
    assert is_recoloured(image, tinted, covered)


def test_the_background_may_be_smaller_than_the_drawing() -> None:
    one, covered = np.full((60, 60, 3), 70.0), np.ones((60, 60), bool)
    one[:, 40:] = 255
    one[:5] = np.random.default_rng(0).uniform(0, 200, (5, 60, 1))
    other = one.copy()
    other[one == 255] = 180
    assert is_recoloured(one, other, covered) and not is_recoloured(one, one * 0.6, covered)


def test_words_added_by_one_image_alone_are_not_other_words() -> None:
    rng = np.random.default_rng(0)
    one, covered = np.full((128, 128), 255.0, np.float32), np.ones((128, 128), bool)
    one[:32] = rng.uniform(0, 255, (32, 128))
    added, replaced = one.copy(), one.copy()
    added[64:96] = rng.uniform(0, 255, (32, 128))
    replaced[:32] = rng.uniform(0, 255, (32, 128))
    assert not has_other_words(one, one, covered) and not has_other_words(one, added, covered)
    assert has_other_words(one, replaced, covered)
    assert not has_other_words(one, replaced, np.zeros_like(covered))
