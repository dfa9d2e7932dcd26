"""Turns the pixels of a decoded picture, whatever their mode and profile, into sRGB of 8 bits a channel, and alpha."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

STRIP_ROWS = 256


def colour_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Splits a picture of any mode into 8-bit L, RGB or CMYK, and alpha as L where there is some."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image)
    if image.has_transparency_data:  # in palettes and single colours too
        with_alpha = "LA" if image.mode in ("L", "LA") else "RGBA"
        image = image if image.mode == with_alpha else image.convert(with_alpha)
        return image.convert("L" if with_alpha == "LA" else "RGB"), image.getchannel("A")
    if image.mode == "LAB":
        return _applied(ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB"), image), None
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scales 16-bit, 32-bit and float samples to L; a transparent level becomes alpha.

    The first range that holds all samples decides: 0 to 65535 for integers; 0 to 1, 0 to 255, 0 to 65535 for floats;
    else from least to greatest. Works in strips, so that large pictures need no further copies.
    """
    boxes = [(0, y, image.width, min(y + STRIP_ROWS, image.height)) for y in range(0, image.height, STRIP_ROWS)]
    extremes = [(float(strip.min()), float(strip.max())) for strip in (np.asarray(image.crop(box)) for box in boxes)]
    if not np.isfinite(extremes).all():
        raise ValueError("some of its pixels are not finite numbers")
    low, high = min(pair[0] for pair in extremes), max(pair[1] for pair in extremes)
    tops = [top for top in ((1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)) if low >= 0 and high <= top]
    floor, span = (0.0, tops[0]) if tops else (low, (high - low) or 1.0)

    key = image.info.get("transparency")
    colour = Image.new("L", image.size)
    alpha = None if key is None else Image.new("L", image.size)
    for box in boxes:
        strip = np.asarray(image.crop(box))
        levels = np.rint((strip - np.float64(floor)) * (255.0 / span)).astype(np.uint8)
        colour.paste(Image.fromarray(levels), box)
        if alpha is not None:
            alpha.paste(Image.fromarray(np.where(strip == key, 0, 255).astype(np.uint8)), box)
    return colour, alpha


def to_srgb(colour: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Returns L, RGB or CMYK as RGB in sRGB, and why the profile was not used where it could not be."""
    warning = None
    if profile:
        if colour.mode == "L" and profile[16:20] == b"RGB ":
            colour = colour.convert("RGB")
        try:
            transform = _transform(profile, colour.mode)
            if transform is not None:
                return _applied(transform, colour), None
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            warning = f"colour profile ignored: {error}"
    return (colour if colour.mode == "RGB" else colour.convert("RGB")), warning


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None only where the picture is changed in place
    return converted


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile's colours to sRGB, None where it changes nothing: most profiles are sRGB by some name."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        _srgb(),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    samples = (
        np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    )
    before = Image.fromarray(samples)
    after = _applied(transform, before)
    change = np.abs(np.asarray(after, dtype=np.int16) - np.asarray(before.convert("RGB"), dtype=np.int16)).max()
    return None if change <= 1 else transform


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
