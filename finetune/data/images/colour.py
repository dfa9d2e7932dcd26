"""Convert pixels of any mode and profile to sRGB and alpha."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from finetune.data.images.png import SRGB_PRIMARIES, Encoding

STRIP_ROWS = 256
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
HIGH_RANGE = 16.0
"""Floats that go beyond 1, but no further than this, are taken for light of a high dynamic range."""


class UnsupportedSamples(ValueError):
    """An intact image whose numbers do not determine colours."""


def is_deep(image: Image.Image) -> bool:
    """Tell if an image is one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def colour_and_alpha(image: Image.Image, encoding: Encoding | None = None) -> tuple[Image.Image, Image.Image | None]:
    """Split any image into 8-bit L, RGB or CMYK, and alpha. `encoding` is applied only where `is_deep`."""
    if is_deep(image):
        return _eight_bits(image, encoding)
    if image.has_transparency_data:  # in palettes and single colours too
        with_alpha = "LA" if image.mode in ("L", "LA") else "RGBA"
        image = image if image.mode == with_alpha else image.convert(with_alpha)
        return image.convert("L" if with_alpha == "LA" else "RGB"), image.getchannel("A")
    if image.mode == "LAB":
        return _applied(ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB"), image), None
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _eight_bits(image: Image.Image, encoding: Encoding | None) -> tuple[Image.Image, Image.Image | None]:
    """Scale 16-bit, 32-bit and float samples to L. A transparent level becomes alpha. The first range that contains all
    samples decides: 0 to 65535 for integers; 0 to 1, 0 to 255, 0 to 65535 for floats; else from least to greatest.
    Works in strips, so large images need no further copies."""
    boxes = [(0, y, image.width, min(y + STRIP_ROWS, image.height)) for y in range(0, image.height, STRIP_ROWS)]
    extremes = [(float(strip.min()), float(strip.max())) for strip in (np.asarray(image.crop(box)) for box in boxes)]
    if not np.isfinite(extremes).all():
        raise ValueError("some of its pixels are not finite numbers")
    low, high = min(pair[0] for pair in extremes), max(pair[1] for pair in extremes)
    if image.mode == "F" and low >= 0 and 1 < high <= HIGH_RANGE:
        raise UnsupportedSamples(
            f"unsupported samples: floats from {low:g} to {high:g}, expected 0 to 1 or 0 to 255. Save it as PNG"
        )
    tops = [top for top in ((1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)) if low >= 0 and high <= top]
    floor, span = (0.0, tops[0]) if tops else (low, (high - low) or 1.0)

    key = image.info.get("transparency")
    colour = Image.new("L", image.size)
    alpha = None if key is None else Image.new("L", image.size)
    for box in boxes:
        strip = np.asarray(image.crop(box))
        levels = (strip - np.float64(floor)) * (255.0 / span)
        if encoding is not None and encoding.gamma is not None:
            levels = 255 * srgb_samples((levels / 255) ** encoding.gamma)
        colour.paste(Image.fromarray(np.rint(levels).astype(np.uint8)), box)
        if alpha is not None:
            alpha.paste(Image.fromarray(np.where(strip == key, 0, 255).astype(np.uint8)), box)
    return colour, alpha


def to_srgb(colour: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Convert L, RGB or CMYK to sRGB. The warning says why a profile was ignored."""
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


def decoded(colour: Image.Image, encoding: Encoding) -> tuple[Image.Image, str | None]:
    """Convert L or RGB of an encoding to sRGB. The warning names ignored parts."""
    samples = np.arange(256) / 255
    light = srgb_light(samples) if encoding.gamma is None else samples**encoding.gamma
    if encoding.primaries is None or colour.mode == "L":  # grey is grey whatever the primaries
        if encoding.gamma is not None:
            table = np.rint(255 * srgb_samples(light)).astype(int).tolist()
            colour = colour.point(table * len(colour.getbands()))
        return colour.convert("RGB"), encoding.warning
    matrix = primaries_to_srgb(encoding.primaries).T
    result = Image.new("RGB", colour.size)
    for top in range(0, colour.height, STRIP_ROWS):
        box = (0, top, colour.width, min(top + STRIP_ROWS, colour.height))
        strip = srgb_samples(light[np.asarray(colour.crop(box))] @ matrix)
        result.paste(Image.fromarray(np.rint(255 * strip).astype(np.uint8)), box)
    return result, encoding.warning


def srgb_samples(light: np.ndarray) -> np.ndarray:
    """Convert light to samples, both 0 to 1. IEC 61966-2-1, section 5.2; clipped."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def srgb_light(samples: np.ndarray) -> np.ndarray:
    """Convert samples to light, the inverse of `srgb_samples`."""
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def primaries_to_srgb(primaries: tuple[float, ...]) -> np.ndarray:
    """Return the matrix [3 3] from light of given primaries to sRGB's. White is adapted by Bradford's method."""
    from_white, to_white = (BRADFORD @ _xyz(*each[:2]) for each in (primaries, SRGB_PRIMARIES))
    adapt = np.linalg.inv(BRADFORD) @ np.diag(to_white / from_white) @ BRADFORD
    return np.linalg.inv(_light_to_xyz(SRGB_PRIMARIES)) @ adapt @ _light_to_xyz(primaries)


def _light_to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    columns = np.stack([_xyz(*primaries[start : start + 2]) for start in (2, 4, 6)], axis=1)
    return columns * np.linalg.solve(columns, _xyz(*primaries[:2]))


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None only where the image is changed in place
    return converted


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None. Most profiles are sRGB under some name."""
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
