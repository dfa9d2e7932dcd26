"""One image file: pixel hash, codes for similarity, and settings. Torch-free."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.images.decode import open_rgb
from finetune.json_text import parse_json
from finetune.sampling.metadata import OWN_CHUNK
from finetune.similarity.codes import KINDS, NUM_WORDS, image_codes

CODES_SHAPE = len(KINDS), NUM_WORDS
LARGEST_WHOLE = 2**63 - 1


@dataclass(frozen=True)
class ImageFile:
    """Content of an image file."""

    file_bytes: int
    file_time: int
    """Nanoseconds since 1970. With the size it tells whether the file was replaced."""
    width: int
    height: int
    sha256: str
    """Of the pixels in RGB with their size, so the metadata do not count."""
    codes: bytes
    settings: str | None
    """JSON that this program wrote into the file."""


def read_image_file(path: Path) -> ImageFile:
    """Read an image file. Raises ValueError or OSError for one that cannot be read."""
    status, data = path.stat(), path.read_bytes()
    image = open_rgb(data)
    pixels = hashlib.sha256(f"{image.width} {image.height} ".encode() + image.tobytes()).hexdigest()
    size = status.st_size, status.st_mtime_ns, image.width, image.height
    return ImageFile(*size, pixels, codes_bytes(image), own_text(data))


def own_text(data: bytes) -> str | None:
    """Read this program's JSON from an image. None for an image of another."""
    with Image.open(io.BytesIO(data)) as opened:
        found = opened.info.get(OWN_CHUNK)
    return as_text(str(found)) if found and read_settings(str(found)) else None


def read_settings(text: str | None) -> Mapping[str, Any]:
    """Parse the settings of an image; empty where there are none."""
    try:
        value = parse_json(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def codes_bytes(image: Image.Image) -> bytes:
    """Return an image's codes as bytes, the same on every machine."""
    return image_codes(image).astype("<u8").tobytes()


def read_codes(stored: list[bytes]) -> np.ndarray:
    """Return codes [N 12 4] that were stored as bytes."""
    return np.frombuffer(b"".join(stored), "<u8").astype(np.uint64).reshape(-1, *CODES_SHAPE)


def as_text(value: object) -> str | None:
    """Return text that every database takes; None for anything else."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def as_whole(value: object) -> int | None:
    """Return a whole number of at most 64 bits. None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if abs(value) <= LARGEST_WHOLE else None
