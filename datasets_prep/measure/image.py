"""Measurements of a file, decoded once: size, hashes, codes, scores.

JPEGs are decoded at half, a quarter or an eighth of their size as long as both sides keep 512 pixels (360 above 4
megapixels). Other images are averaged down to that size, so scores mean the same for every format. Whether a
12-megapixel photograph is sharp at full size stays unknown, which does not matter for training at 512 or 1024.
"""

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

from datasets_prep.measure import figures
from datasets_prep.measure.embedded import embedded_caption
from datasets_prep.measure.figures import middle_patch
from datasets_prep.records import Measured, PrepSource, Reason, Rejected
from finetune.data.images.decode import open_header, open_rgb, upright_size
from finetune.data.visible_files import UNREAD_SUFFIXES
from finetune.similarity.codes import image_codes

VERSION = 3
"""Increased when the same file gets other measurements."""
SCORES = (
    "brightness",  # mean of the grey image, 0 to 255
    "deviation",  # largest standard deviation of a channel, 0 to 255
    "entropy",  # of the grey levels, 0 to 8 bits
    "saturation",  # mean of largest less smallest channel, 0 to 255
    "detail",  # 0 to 1, see datasets_prep.measure.figures
    "spectrum",  # 0 to 1
    "blocks",  # 1 without any
    "jpeg_quality",  # 1 to 100; 100 for formats without such a number
    "border",  # largest share of a side
    "frames",  # images in the file
)
FEATURE_SIDE = 512
LARGE_PIXELS, LARGE_SIDE = 4_000_000, 360
"""Above this number of pixels the shorter side keeps at least this length, as an eighth of a phone's JPEG does."""
THUMB_SIDE = 256
PATCH = 256
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}  # other formats are called as their suffix is


TRANSPARENT = "images with transparency, whose hidden pixels are not seen in training"


@dataclass(frozen=True)
class Look:
    """The options that measurements depend on."""

    max_pixels: int
    max_side: int
    max_bytes: int
    background: str


def measure(source: PrepSource, look: Look, name: str) -> Measured | Rejected:
    """Read and measure a file, or explain why it is unusable."""
    try:
        data = source.read(name)
    except OSError as error:
        return Rejected(name, "unreadable", error.strerror or str(error))
    except ValueError as error:
        return Rejected(name, "too_large" if "the limit is" in str(error) else "unreadable", str(error))
    if len(data) > look.max_bytes:
        return Rejected(name, "too_large", f"{len(data):,} bytes, the limit is {look.max_bytes:,}")
    try:
        width, height = upright_size(data)
        if width * height > look.max_pixels or max(width, height) > look.max_side:
            limit = f"the limits are {look.max_pixels:,} pixels and sides of {look.max_side:,}"
            return Rejected(name, "too_many_pixels", f"{width} x {height}, {limit}")
        side = FEATURE_SIDE if width * height <= LARGE_PIXELS else LARGE_SIDE
        decoded = open_rgb(data, background=colour(look.background), draft=(side, side))
        return measured(name, data, (width, height), decoded)
    except ValueError as error:
        return Rejected(name, reason(str(error), data, posixpath.splitext(name)[1].lower()), str(error))


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour name, each 0 to 255."""
    red, green, blue, *_ = ImageColor.getrgb(name)
    return red, green, blue


def measured(name: str, data: bytes, size: tuple[int, int], decoded: Image.Image) -> Measured:
    """Measure a decoded image of the upright `size`. `decoded` may be smaller, and is changed."""
    header = open_header(data)
    told = decoded.info
    native = np.asarray(middle_patch(decoded, 2 * PATCH).convert("L"), np.int16) if decoded.size == size else None
    factor = max(1, min(decoded.size) // FEATURE_SIDE)
    thumb = decoded.reduce(factor) if factor > 1 else decoded
    grey = thumb.convert("L")
    thumb.thumbnail((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    channels = [np.asarray(channel) for channel in thumb.split()]
    levels = np.asarray(thumb.convert("L"))
    scores = {
        "brightness": float(levels.mean()),
        "deviation": max(figures.deviation(channel) for channel in channels),
        "entropy": figures.entropy(levels),
        "saturation": float(np.mean(np.maximum.reduce(channels) - np.minimum.reduce(channels))),
        "detail": figures.detail(middle_patch(grey, 2 * PATCH)),
        "spectrum": figures.spectrum_end(np.asarray(middle_patch(grey, PATCH), dtype=np.float32)),
        "blocks": 1.0 if native is None else figures.blocks(native),
        "jpeg_quality": figures.jpeg_quality(header),
        "border": figures.border(levels),
        "frames": float(num_frames(header)),
    }
    kind = str(header.format)
    return Measured(
        source=name,
        sha256=hashlib.sha256(data).digest(),
        pixels_sha256=hashlib.sha256(f"{size[0]} {size[1]} {thumb.size}".encode() + thumb.tobytes()).digest(),
        num_bytes=len(data),
        width=size[0],
        height=size[1],
        suffix=SUFFIXES.get(kind, f".{kind.lower()}"),
        codes=image_codes(thumb),
        scores={score: round(value, 4) for score, value in scores.items()},
        notes=notes(told, scores["frames"]),
        caption=embedded_caption(header, data),
    )


def num_frames(header: Image.Image) -> int:
    """Count the images of an animation or the pages of a file. It is 1 for MPO, as phones save it, or where the second
    frame is damaged. Raises ValueError where a later frame is too large."""
    if header.format == "MPO":
        return 1
    try:
        header.seek(1)
        return int(header.n_frames)  # type: ignore[attr-defined]
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels in a later frame: {error}") from error
    except MemoryError:  # says nothing about the file
        raise
    except Exception:  # noqa: BLE001  what damaged frames raise is an open set
        return 1


def notes(told: Mapping[str | tuple[int, int], object], num_frames: float) -> tuple[str, ...]:
    """List what to tell the user about an image that is kept. `told` is the info of `open_rgb`."""
    found = []
    if num_frames > 1:
        found.append("animations, of which the first frame is measured and trained on")
    if "is_transparent" in told:
        found.append(TRANSPARENT)
    if "colour_warning" in told:
        found.append("colour profiles that cannot be used and are ignored")
    return tuple(found)


def reason(message: str, data: bytes, suffix: str) -> Reason:
    """Classify an error message of `open_rgb`."""
    if not data:
        return "empty_file"
    if message.startswith("too many pixels"):
        return "too_many_pixels"
    if message.startswith("no pixels"):
        return "too_small"
    if message.startswith(("cut short", "damaged", "its pixels")):
        is_short_webp = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
        is_short = message.startswith("cut short:") or "truncated" in message.lower() or is_short_webp
        return "truncated" if is_short else "decode_error"
    is_unsupported = message.startswith(("HEIC", "JPEG XL", "unsupported")) or suffix in UNREAD_SUFFIXES
    return "unsupported_format" if is_unsupported else "not_an_image"
