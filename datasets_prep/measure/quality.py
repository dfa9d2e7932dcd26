"""Unusable images and quality flags, from the measurements."""

from collections.abc import Mapping

import numpy as np

from datasets_prep.config import QualityConfig
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.image import TRANSPARENT
from datasets_prep.records import Why


def unusable(images: MeasuredImages, config: QualityConfig) -> dict[int, Why]:
    """Find the images to reject: index -> reason, detail and score."""
    short, long = np.minimum(images.width, images.height), np.maximum(images.width, images.height)
    found: dict[int, Why] = {}
    for index in np.flatnonzero(images.score("deviation") < config.min_deviation):
        deviation = images.score("deviation")[index]
        detail = f"one tone: levels deviate by {deviation:.2f} of 255, expected {config.min_deviation:g} or more"
        if TRANSPARENT in images.notes.get(int(index), ()):
            detail += "; it is partly transparent: use another --background, and --write.reencode png to keep it"
        found[int(index)] = ("low_information", detail, float(images.score("deviation")[index]))
    for index in np.flatnonzero(long > config.max_aspect * short):
        size = f"{images.width[index]} x {images.height[index]}"
        found[int(index)] = ("bad_aspect", f"{size}, expected an aspect of at most {config.max_aspect:g}", None)
    for index in np.flatnonzero(short < config.min_side):
        size = f"{images.width[index]} x {images.height[index]}"
        found[int(index)] = ("too_small", f"{size}, expected sides of {config.min_side} or more", None)
    flags = all_flags(images, config)
    for name in config.reject:
        for index in np.flatnonzero(flags[name]):
            detail = f"{name}: {flag_detail(images, name, int(index))}"
            found.setdefault(int(index), ("flagged", detail, None))
    return found


def all_flags(images: MeasuredImages, config: QualityConfig) -> Mapping[str, np.ndarray]:
    """Masks [N] of the images that have each flag."""
    short, long = np.minimum(images.width, images.height), np.maximum(images.width, images.height)
    score = images.score
    return {
        "small": short < config.flag_side,
        "long": long > config.flag_aspect * short,
        "dark": score("brightness") < config.flag_dark,
        "light": score("brightness") > config.flag_light,
        "blurred": score("detail") < config.flag_blurred,
        "upscaled": score("spectrum") < config.flag_upscaled,
        "compressed": score("jpeg_quality") < config.flag_jpeg_quality,
        "blocks": score("blocks") > config.flag_blocks,
        "border": score("border") > config.flag_border,
        "animated": score("frames") > 1,
    }


FLAG_SCORES = {"dark": "brightness", "light": "brightness", "blurred": "detail", "upscaled": "spectrum"}
FLAG_SCORES |= {"compressed": "jpeg_quality", "blocks": "blocks", "border": "border", "animated": "frames"}


def flag_detail(images: MeasuredImages, flag: str, index: int) -> str:
    """Format the figure behind a flag."""
    if flag in FLAG_SCORES:
        return f"{FLAG_SCORES[flag]} {images.score(FLAG_SCORES[flag])[index]:.3g}"
    return f"{images.width[index]} x {images.height[index]}"
