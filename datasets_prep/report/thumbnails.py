"""Small images of the report, cached by content."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import PIL
from PIL import Image

from datasets_prep.caches.content import ContentCache

SIDE = 192
VERSION = 1
"""Increased when the same image gives another thumbnail."""


@dataclass(frozen=True)
class SmallImage:
    """An image at the report's size."""

    webp: bytes
    width: int
    """Of the original image, like height."""
    height: int


def small_image(image: Image.Image) -> SmallImage:
    """Reduce an image to the report's size."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70, method=4)
    return SmallImage(buffer.getvalue(), image.width, image.height)


def cached_small_image(
    name: str,
    read: Callable[[str], bytes],
    load: Callable[[str], Image.Image | None],
    background: str,
    cache: ContentCache,
) -> SmallImage | None:
    """Return the small image of a name, None where unreadable. Only new content is decoded."""
    try:
        digest = hashlib.sha256(read(name)).hexdigest()
    except (OSError, ValueError):
        return None
    key = f"{digest[:32]} {background} {VERSION} {PIL.__version__}"
    kept = cache.get(key)
    if kept is not None:
        return SmallImage(kept[8:], int.from_bytes(kept[:4]), int.from_bytes(kept[4:8]))
    image = load(name)
    if image is None:
        return None
    small = small_image(image)
    cache.put(key, small.width.to_bytes(4) + small.height.to_bytes(4) + small.webp)
    return small
