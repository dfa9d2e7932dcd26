import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from finetune.similarity.agreement import CERTAIN, agreement, can_verify, look_at, motion_of, overlaid_correlations
from finetune.similarity.appearance import closest_codes
from finetune.similarity.codes import KINDS
from finetune.similarity.corners import descriptors_of, voted_pairs

needs_opencv = pytest.mark.skipif(not can_verify(), reason="needs opencv-python-headless")


def texture(seed: int, width: int = 400, height: int = 320) -> Image.Image:
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for num, share in ((6, 0.5), (20, 0.3), (60, 0.2)):  # detail at several scales, as photographs have
        layer = Image.fromarray(rng.integers(0, 255, (num, num, 3), dtype=np.uint8))
        total += share * np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def heart(colour: str, lid: int = 24) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 12, 36, 40), colour)
    draw.ellipse((28, 12, 56, 40), colour)
    draw.polygon([(11, 34), (53, 34), (32, 58)], colour)
    draw.rectangle((lid, 20, lid + 6, 30), "black")
    return image


def score(first: Image.Image, second: Image.Image) -> float:
    return agreement(look_at(first), look_at(second))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_the_motion_of_a_kind_puts_an_image_onto_the_other(kind: int) -> None:
    image = texture(0, 384, 300)
    seen = whole = image  # the kind's part of `whole` is what `seen` shows
    if 0 < kind < 8:
        names = (
            "FLIP_LEFT_RIGHT",
            "FLIP_TOP_BOTTOM",
            "ROTATE_180",
            "TRANSPOSE",
            "ROTATE_90",
            "ROTATE_270",
            "TRANSVERSE",
        )
        seen = image.transpose(Image.Transpose[names[kind - 1]])
    elif kind == 8:
        whole = ImageOps.expand(image, 40, "white")
    elif kind > 8:
        share = (0.05, 0.1, 0.2)[kind - 9] / 2
        seen = image.crop((round(384 * share), round(300 * share), round(384 * (1 - share)), round(300 * (1 - share))))
    first, second = look_at(seen), look_at(whole)
    assert min(overlaid_correlations(first, second, motion_of(first, second, (0, kind)))) > 0.9


def test_a_motion_of_the_same_kinds_is_none_at_all() -> None:
    look = look_at(texture(0))
    assert np.allclose(motion_of(look, look, (0, 0)), [[1, 0, 0], [0, 1, 0]])


def printed(image: Image.Image) -> Image.Image:
    table = Image.new("RGB", (480, 480), "#6b5a48")
    draw = ImageDraw.Draw(table)
    for place in range(0, 480, 60):
        for left, top in ((place, 20), (place, 430), (20, place), (430, place)):
            draw.ellipse((left, top, left + 34, top + 34), "#b9a58c", "#3a2f25", 3)
    table.paste(ImageOps.expand(image.resize((280, 280)), 20, "#f4f1ea"), (80, 80))
    light = np.linspace(0.8, 1.1, 480)[None, :, None]
    return Image.fromarray(np.clip(np.asarray(table) * light, 0, 255).astype(np.uint8))


@needs_opencv
def test_prints_of_two_images_do_not_agree_by_the_table_that_they_lie_on() -> None:
    one, other = (texture(seed, 320, 320) for seed in (0, 1))
    assert look_at(printed(one)).is_flat and look_at(printed(other)).is_flat
    assert score(printed(one), printed(other)) < CERTAIN
    assert score(printed(one), printed(one.filter(ImageFilter.GaussianBlur(1)))) >= CERTAIN


@needs_opencv
@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.crop((80, 64, 400, 320)),
        lambda image: image.rotate(10, Image.Resampling.BICUBIC),
        lambda image: ImageOps.mirror(image.crop((0, 0, 300, 250))),
    ],
    ids=["crop off the centre", "small turn", "mirrored crop"],
)
def test_corners_find_what_codes_do_not(edit) -> None:
    image = texture(3)
    assert closest_codes(look_at(image).codes, look_at(edit(image)).codes)[0] > 40
    assert score(image, edit(image)) > CERTAIN
    assert score(image, edit(texture(4))) < 0.5


@needs_opencv
def test_images_with_corners_in_common_are_voted_for() -> None:
    pictures = [texture(seed) for seed in range(6)]
    pictures.append(ImageOps.mirror(pictures[2].crop((80, 64, 400, 320))).rotate(10, Image.Resampling.BICUBIC))
    found = [descriptors_of(look_at(image).grey) for image in pictures]
    pairs = voted_pairs(found)
    assert pairs.tolist() == [[2, 6]]
    without = [None if number == 2 else each for number, each in enumerate(found)]
    assert voted_pairs(without).tolist() == []


def test_nothing_and_flat_images_get_no_votes() -> None:
    assert voted_pairs(iter(())).shape == (0, 2)
    if can_verify():
        flat = Image.new("L", (100, 80), 128)
        assert voted_pairs([descriptors_of(flat)] * 2).shape == (0, 2)


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
    ],
    ids=["larger", "darker", "blurred"],
)
def test_a_plain_copy_of_a_drawing_agrees(edit) -> None:
    assert score(heart("red"), edit(heart("red"))) >= CERTAIN


@pytest.mark.parametrize(
    "other",
    [heart("green"), heart("#888"), heart("red", lid=36), ImageOps.mirror(heart("red")), Image.new("RGB", (64, 64))],
    ids=["another colour", "grey", "a part moved", "mirrored", "nothing"],
)
def test_drawings_that_differ_by_design_do_not_agree_however_close_their_codes_are(other: Image.Image) -> None:
    assert score(heart("red"), other) < CERTAIN


def test_a_plain_photograph_may_be_brighter_or_mirrored_but_not_be_another() -> None:
    image = Image.new("RGB", (400, 400), "white")
    image.paste(texture(5, 240, 240), (80, 80))
    other = image.copy()
    other.paste("black", (120, 120, 210, 210))
    assert look_at(image).is_plain and look_at(other).is_plain and not look_at(image).is_simple
    assert score(image, ImageEnhance.Brightness(image).enhance(0.7)) >= CERTAIN
    assert score(image, ImageOps.mirror(image)) >= CERTAIN
    assert score(image, other) < CERTAIN


def test_a_logo_and_a_tiled_mark_leave_a_copy_but_another_image_stays_one() -> None:
    image = texture(7)
    logo, marked = image.copy(), image.copy()
    ImageDraw.Draw(logo).rectangle((280, 20, 390, 110), "black")
    for y in range(0, 320, 40):
        ImageDraw.Draw(marked).text((y // 4, y), "sample " * 9, "white")
    assert score(image, logo) >= CERTAIN and score(image, Image.blend(image, marked, 0.4)) >= CERTAIN
    assert score(image, Image.blend(image, texture(8), 0.7)) < CERTAIN
