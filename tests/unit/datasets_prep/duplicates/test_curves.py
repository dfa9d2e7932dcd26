from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from datasets_prep.duplicates.curves import changed_tones, fitted, steps_of, tone_figures
from datasets_prep.duplicates.made import Made

Edit = Callable[[Image.Image], Image.Image]


def scene(side: int = 384) -> Image.Image:
    """An image with the detail of photographs, and dark and light parts."""
    chance = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    noise = [
        np.fft.irfft2(np.exp(2j * np.pi * chance.random(frequency.shape)) / frequency, (side, side)) for _ in "123"
    ]
    levels = [128 + 50 * (noise[0] / noise[0].std()) + 12 * each / each.std() for each in noise]
    return saved(Image.fromarray(np.clip(np.stack(levels, 2), 0, 255).astype(np.uint8)), 88)


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def gamma(value: float) -> Edit:
    return lambda image: image.point([round(255 * (level / 255) ** value) for level in range(256)] * 3)


TONES: dict[str, Edit] = {
    "gamma 1.6": gamma(1.6),
    "gamma 0.7": gamma(0.7),
    "contrast 0.6": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "contrast 1.5": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "brightness 1.4": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "faded": lambda image: image.point([30 + level * 4 // 5 for level in range(256)] * 3),
}


@pytest.mark.parametrize(
    ("edit", "quality"),
    [(edit, None) for edit in TONES]
    + [(edit, quality) for edit in ("gamma 1.6", "contrast 1.5", "brightness 1.4") for quality in (95, 80)],
)
def test_the_image_with_changed_tones_is_recognized(edit: str, quality: int | None) -> None:
    original = scene()
    edited = TONES[edit](original)
    edited = edited if quality is None else saved(edited, quality)
    assert changed_tones(tone_figures(original, edited)) is Made.SECOND
    assert changed_tones(tone_figures(edited, original)) is Made.FIRST


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image,
        lambda image: image.filter(ImageFilter.UnsharpMask(2, 120)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: gamma(1.6)(image.rotate(2)),
    ],
    ids=["the same", "sharpened", "mirrored", "turned and darker"],
)
def test_nothing_is_said_where_more_or_less_than_tones_differs(edit: Edit) -> None:
    assert changed_tones(tone_figures(scene(), saved(edit(scene()), 95))) is Made.UNKNOWN


def test_scaled_tones_can_be_left_out() -> None:
    original = scene()
    duller = saved(ImageEnhance.Contrast(original).enhance(0.6), 95)
    assert changed_tones(tone_figures(original, duller)) is Made.SECOND
    assert changed_tones(tone_figures(original, duller), with_scaled=False) is Made.UNKNOWN
    bent = saved(gamma(2.2)(original), 95)
    assert changed_tones(tone_figures(original, bent), with_scaled=False) is Made.SECOND


@pytest.mark.parametrize("quality", [60, 90])
def test_a_darker_jpeg_of_a_drawing_is_not_its_original(quality: int) -> None:
    drawing = Image.fromarray(np.random.default_rng(0).integers(0, 6, (20, 20, 3), dtype=np.uint8) * 40)
    drawing = drawing.resize((400, 400), Image.Resampling.NEAREST)
    darker = saved(ImageEnhance.Brightness(drawing).enhance(0.8), quality)
    assert changed_tones(tone_figures(drawing, darker)) is not Made.FIRST


def test_a_drawing_of_few_tones_says_nothing() -> None:
    drawing = Image.new("RGB", (400, 400), "white")
    drawing.paste("navy", (100, 100, 300, 300))
    darker = saved(ImageEnhance.Brightness(drawing).enhance(0.8), 80)
    assert changed_tones(tone_figures(drawing, darker)) is Made.UNKNOWN


def test_images_smaller_than_a_block_say_nothing() -> None:
    small = Image.new("RGB", (7, 90), "gray")
    assert changed_tones(tone_figures(small, small)) is Made.UNKNOWN


def test_curves_of_the_channels_are_found() -> None:
    source = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    bent = 0.5 * source[..., 0] + 0.3 * np.maximum(source[..., 1], 64.0) + 0.1 * source[..., 2] + 7
    assert np.abs(fitted(source, bent) - bent).max() < 4


def test_steps_of_frequencies_are_found() -> None:
    chance = np.random.default_rng(0)
    multiples = np.stack([chance.integers(-9, 10, 2000) * step for step in (3, 7, 12)], 1)
    free = chance.uniform(-90, 90, (2000, 1))
    assert steps_of(np.hstack([multiples + chance.normal(0, 0.3, (2000, 3)), free])).tolist() == [3, 7, 12, 0]
