import struct
import zlib
from typing import Literal

import numpy as np
import pytest

from finetune.data.images.decode import open_rgb, upright_size
from tests.support.images import pixels

SIZES = {"H": 2, "I": 4, "Q": 8}


def tiff(
    samples: np.ndarray,
    photometric: int,
    *,
    order: Literal["<", ">"] = "<",
    planar: int = 1,
    compression: int = 1,
    big: bool = False,
) -> bytes:
    """A TIFF of samples [H W C] in one strip or planes. Compression is 1 (none) or 8 (deflate)."""
    height, width, num = samples.shape
    raw = samples.astype(samples.dtype.newbyteorder(order))
    strips = [raw.tobytes()] if planar == 1 else [raw[..., plane].tobytes() for plane in range(num)]
    strips = [zlib.compress(strip) if compression == 8 else strip for strip in strips]
    offset, word = (16, "Q") if big else (8, "I")
    starts = [offset + sum(map(len, strips[:number])) for number in range(len(strips))]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags: dict[int, tuple[str, list[int]]] = {256: ("I", [width]), 257: ("I", [height]), 259: ("H", [compression])}
    tags |= {
        258: ("H", [8 * samples.itemsize] * num),
        262: ("H", [photometric]),
        273: (word, starts),
        277: ("H", [num]),
    }
    tags |= {278: ("I", [height]), 279: (word, [len(strip) for strip in strips]), 284: ("H", [planar])}
    tags |= {339: ("H", [kind] * num)}
    extra = num - {2: 3, 5: 4, 8: 3, 9: 3}.get(photometric, 1)
    tags |= {338: ("H", [2] * extra)} if extra else {}
    place = starts[-1] + len(strips[-1])
    place += -place % 8
    behind = place + (8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4)
    table = rest = b""
    for tag, (letter, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(value) > SIZES[word]:
            value, rest = struct.pack(order + word, behind + len(rest)), rest + value + bytes(-len(value) % 8)
        number = {"H": 3, "I": 4, "Q": 16}[letter]
        table += struct.pack(f"{order}HH{word}", tag, number, len(values)) + value.ljust(SIZES[word], b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, place) if big else struct.pack(order + "HI", 42, place))
    body = (head + b"".join(strips)).ljust(place, b"\0")
    return body + struct.pack(order + ("Q" if big else "H"), len(tags)) + table + bytes(SIZES[word]) + rest


def ramp(num: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Sample [2 8 num], and what they are from 0 to 1."""
    values = np.linspace(0, 1, 8)[None, :, None] * np.linspace(1, 0.25, num) * np.ones((2, 1, 1))
    top = 1 if dtype.startswith("f") else np.iinfo(dtype).max
    return (values * top).astype(dtype), values


GREY, RGB, CMYK, LAB = 1, 2, 5, 8
LAYOUTS = [{}, {"order": ">"}, {"planar": 2}, {"compression": 8}, {"big": True}]
LAYOUTS += [{"order": ">", "compression": 8}, {"planar": 2, "compression": 8}]
KINDS = [
    *[(GREY, 1, dtype) for dtype in ("u1", "u2", "u4", "i2", "f2", "f4", "f8")],
    *[(RGB, 3, dtype) for dtype in ("u1", "u2", "u4", "f2", "f4", "f8")],
    *[(0, 1, "u1"), (0, 1, "u2"), (GREY, 2, "u1"), (GREY, 2, "u2"), (RGB, 4, "u1"), (RGB, 4, "u2")],
    *[(CMYK, 4, "u1"), (CMYK, 4, "u2"), (LAB, 3, "u2"), (9, 3, "u1"), (32845, 3, "u2")],
]


def shown(photometric: int, values: np.ndarray) -> np.ndarray:
    """Colours of samples from 0 to 1, on white, 0 to 255."""
    num = values.shape[2]
    if photometric == CMYK:
        return 255 * (1 - values[..., :3]) * (1 - values[..., 3:])
    colour = 1 - values if photometric == 0 else values[..., : 3 if num > 2 else 1]
    alpha = values[..., -1:] if num in (2, 4) else 1.0
    return 255 * (colour * alpha + 1 - alpha)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_an_intact_tiff_is_read_right_or_called_unsupported(layout: dict) -> None:
    num_read = 0
    for photometric, num, dtype in KINDS:
        samples, values = ramp(num, dtype)
        data = tiff(samples, photometric, **layout)
        try:
            assert upright_size(data) == (8, 2)
        except ValueError:
            for read in (upright_size, open_rgb):
                with pytest.raises(ValueError, match=r"^unsupported TIFF: .* Save it as PNG"):
                    read(data)
        else:
            found = pixels(data)
            assert np.abs(found - shown(photometric, values)).max() <= 3, (photometric, num, dtype)
            num_read += 1
    assert num_read >= 4


@pytest.mark.parametrize(("photometric", "num", "dtype"), [(RGB, 3, "f4"), (LAB, 3, "u2")])
def test_a_tiff_whose_pixels_are_missing_is_cut_short(photometric: int, num: int, dtype: str) -> None:
    data = bytearray(tiff(ramp(num, dtype)[0], photometric))
    place = data.index(struct.pack("<HHI", 279, 4, 1))
    data[place + 8 : place + 12] = struct.pack("<I", 10**6)
    with pytest.raises(ValueError, match="cut short"):
        open_rgb(bytes(data))
