"""Images and folders that the tests of this folder write."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.images.decode import open_rgb
from finetune.data.manifest import Manifest, read_manifest

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real images, beside the repository; tests that need them skip where it is absent."""

Row = Mapping[str, object]

A = {"file_name": "a.png", "text": "one"}
B = {"file_name": "b.png", "text": "two"}
C = {"file_name": "c.png", "text": "three"}


def gradient(width: int = 64, height: int = 40) -> Image.Image:
    """An image whose corners and halves all differ."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = x * 255 / (width - 1), y * 255 / (height - 1), np.where(x > width / 2, 220, 30)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(colour: str = "red", size: tuple[int, int] = (12, 8), kind: str = "PNG") -> bytes:
    return encoded(Image.new("RGB", size, colour), kind)


def drawn(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """An image of coloured patches that no other seed's resembles."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def pixels(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Decode with `open_rgb` to whole numbers [H W 3]."""
    return np.asarray(open_rgb(data, background=background)).astype(int)


def png_block(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """Make a PNG of rows with filter bytes, and extra blocks. Blocks may be before and after the pixels."""
    header = png_block(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = before + png_block(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + header + body + png_block(b"IEND", b"")


def write(folder: Path, files: Mapping[str, bytes | str]) -> str:
    """Write the files by their names and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


def listing(*rows: Row) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def listed(folder: Path, *rows: Row) -> str:
    """Make a folder with images and a metadata.jsonl of these rows. The images are a.png, b.png and c.png."""
    return write(folder, {"metadata.jsonl": listing(*rows), **{f"{name}.png": picture() for name in "abc"}})


def captions(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    return {record.file_name: record.captions for record in manifest.records}


def mistakes(folder: str, **options: str) -> str:
    """The message of the ValueError that reading the folder raises."""
    with pytest.raises(ValueError) as caught:
        read_manifest(folder, **options)
    return str(caught.value)
