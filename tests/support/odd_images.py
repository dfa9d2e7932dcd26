"""Odd images of every format: tiny files, mutated from a seed.
`python -m tests.support.odd_images 1500 SEED` reads as many and prints how they ended.
"""

import functools
import io
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from datasets_prep.records import Rejected

SAVED: dict[str, tuple[str, dict[str, Any]]] = {"jpeg": ("JPEG", {"quality": 90})}
SAVED |= {"progressive": ("JPEG", {"progressive": True, "optimize": True}), "mpo": ("MPO", {"frames": 2})}
SAVED |= {"png": ("PNG", {}), "apng": ("PNG", {"frames": 3}), "webp": ("WEBP", {"lossless": True})}
SAVED |= {
    "animated webp": ("WEBP", {"frames": 3}),
    "gif": ("GIF", {"frames": 3}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
}
SAVED |= {"tiff": ("TIFF", {}), "lzw": ("TIFF", {"compression": "tiff_lzw"})}
SAVED |= {
    "pages": ("TIFF", {"frames": 2, "compression": "tiff_adobe_deflate"}),
    "big tiff": ("TIFF", {"big_tiff": True}),
}
SAVED |= {"avif": ("AVIF", {}), "jpeg 2000": ("JPEG2000", {}), "ppm": ("PPM", {}), "qoi": ("QOI", {})}
SAVED |= {"heic": ("HEIF", {}), "jpeg xl": ("JXL", {})}
"""Name -> Pillow's format and options."""
MODES = ("RGB", "RGBA", "L", "P", "CMYK", "1", "LA", "I;16", "F", "LAB")
LARGE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def odd_images(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield what was done to which file, and the bytes."""
    rng = np.random.default_rng(seed)
    seeds = _tiny_files()
    for number in range(count):
        name, data = seeds[number % len(seeds)]
        done, mutated = "as saved", bytearray(data)
        for _ in range(int(rng.integers(0, 4)) if number >= len(seeds) else 0):
            done = _mutate(mutated, rng)
        yield f"{name}, {done}", bytes(mutated)


def _mutate(data: bytearray, rng: np.random.Generator) -> str:
    """Change bytes in one of seven ways, and say which. Most changes are in headers."""
    if not data:
        return "emptied"
    end = len(data) if rng.random() < 0.3 else min(len(data), 200)
    place, way = int(rng.integers(0, end)), int(rng.integers(0, 7))
    if way == 0:
        data[place] ^= 1 << int(rng.integers(0, 8))
        return "a bit flipped"
    if way == 1:
        size = int(rng.choice([1, 2, 4]))
        value = int(rng.choice(LARGE)) & (2 ** (8 * size) - 1)
        data[place : place + size] = value.to_bytes(size, "big" if rng.random() < 0.5 else "little")
        return "a number replaced"
    if way == 2:
        del data[place + int(rng.integers(0, len(data))) :]
        return "cut short"
    if way == 3:
        length = int(rng.integers(1, 40))
        data[place:place] = data[place : place + length]
        return "a piece doubled"
    if way == 4:
        del data[place : place + int(rng.integers(1, 40))]
        return "a piece lost"
    if way == 5:
        data[place : place + 16] = rng.bytes(16)
        return "noise"
    data.extend(rng.bytes(int(rng.integers(1, 2000))))
    return "something behind its end"


@functools.cache
def _tiny_files() -> list[tuple[str, bytes]]:
    from finetune.data.images.decode import readable_formats

    found: list[tuple[str, bytes]] = []
    for name, (kind, options) in SAVED.items():
        for mode in MODES:
            frames = int(options.get("frames", 1))
            others = {key: value for key, value in options.items() if key != "frames"}
            image = _drawn().convert("L" if mode in ("I;16", "F") else "RGB" if mode == "LAB" else mode)
            image = Image.new("LAB", (24, 16), (90, 100, 140)) if mode == "LAB" else image
            if mode in ("I;16", "F"):
                image = Image.fromarray(np.asarray(image).astype(np.uint16 if mode == "I;16" else np.float32))
            if frames > 1:
                others |= {"save_all": True, "append_images": [image.rotate(90 * turn) for turn in range(1, frames)]}
            buffer = io.BytesIO()
            try:
                if kind in readable_formats():
                    image.save(buffer, kind, **others)
                    found.append((f"{name} {mode}", buffer.getvalue()))
            except (OSError, ValueError, TypeError, KeyError, NotImplementedError):
                continue  # a mode that the format lacks
    return [*found, *_hostile()]


def _drawn() -> Image.Image:
    y, x = np.mgrid[0:16, 0:24]
    return Image.fromarray(np.stack([x * 10, y * 15, (x + y) * 6], axis=-1).astype(np.uint8))


def gif_with_huge_second_frame() -> bytes:
    """Return an animation whose second frame claims 65535 x 65535 pixels."""
    frames = [_drawn().convert("P"), _drawn().rotate(90).convert("P")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    gif = bytearray(buffer.getvalue())
    second = gif.rindex(b",\0\0\0\0")
    gif[second + 5 : second + 9] = b"\xff\xff\xff\xff"
    return bytes(gif)


def _hostile() -> list[tuple[str, bytes]]:
    """Harmful files: a huge second frame, and circular tags."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    loop = b"II*\0" + struct.pack("<IH", 8, 3) + struct.pack("<HHII", 256, 4, 1, 9) * 2 + entry + struct.pack("<I", 8)
    exif = io.BytesIO()
    _drawn().save(exif, "JPEG", exif=b"Exif\0\0" + loop)
    return [
        ("gif with a huge second frame", gif_with_huge_second_frame()),
        ("tiff loop", loop),
        ("exif loop", exif.getvalue()),
    ]


class OneFile:
    """A source of one file that is in memory."""

    name = "file"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, source: str) -> bytes:
        return self._data


def read_all(count: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Read many files in every way; return outcomes and escaped errors. Errors other than ValueError have escaped."""
    from datasets_prep.measure.image import Look, measure
    from finetune.data.images.decode import open_alpha, open_rgb, upright_size

    look = Look(100 * 2**20, 32768, 10**8, "white")
    readers = {
        "size": upright_size,
        "pixels": lambda data: open_rgb(data, draft=(8, 8)),
        "alpha": open_alpha,
        "measured": lambda data: measure(OneFile(data), look, "a.png"),  # pyright: ignore[reportArgumentType]
    }
    ends: Counter[str] = Counter()
    escaped: Counter[str] = Counter()
    for what, data in odd_images(count, seed):
        for reader, read in readers.items():
            try:
                result = read(data)
                ends[f"{reader}: {'rejected' if isinstance(result, Rejected) else 'read'}"] += 1
            except ValueError:
                ends[f"{reader}: refused"] += 1
            except BaseException as error:  # noqa: BLE001  that is what is counted
                escaped[f"{reader}: {type(error).__name__}: {str(error)[:60]} ({what})"] += 1
    return ends, escaped


def main() -> None:
    warnings.simplefilter("ignore")
    for counts in read_all(int(sys.argv[1]), int(sys.argv[2])):
        for name, count in sorted(counts.items()):
            print(f"{count:6} {name}")


if __name__ == "__main__":
    main()
