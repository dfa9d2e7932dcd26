"""Refuse intact TIFFs that Pillow does not open or decodes wrongly."""

import io
import warnings

from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANAR, SAMPLE_FORMAT = 277, 284, 339
OFFSETS, BYTE_COUNTS = (273, 324), (279, 325)  # of strips, of tiles
SUBFILE_TYPE, DNG_VERSION = 254, 50706
UNCOMPRESSED, JPEGS = 1, (6, 7)
WHOLE, SIGNED, FLOAT = 1, 2, 3

COLOURS = {
    0: "grey with 0 as white",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "transparency mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICC LAB",
    10: "ITU LAB",
    32803: "a camera's raw samples",
    32844: "LogL",
    32845: "LogLuv",
}
FORMATS = {WHOLE: "whole numbers", SIGNED: "signed numbers", FLOAT: "floats"}
READ_RIGHT = {  # colours -> (bits, format) of the samples
    0: {(1, WHOLE), (2, WHOLE), (4, WHOLE), (8, WHOLE)},
    1: {(1, WHOLE), (2, WHOLE), (4, WHOLE), (8, WHOLE), (16, WHOLE), (32, SIGNED), (32, FLOAT)},
    2: {(8, WHOLE), (16, WHOLE)},
    3: {(1, WHOLE), (2, WHOLE), (4, WHOLE), (8, WHOLE)},
    5: {(8, WHOLE), (16, WHOLE)},
    8: {(8, WHOLE)},
}


def refuse_unsupported_tiff(data: bytes, *, is_open: bool) -> None:
    """Raise ValueError for a TIFF that Pillow does not read right. Its first image must be complete: a file
    that is cut short or damaged passes."""
    if not data.startswith(STARTS):
        return
    try:
        tags = _first_page(data)
        what = _what_is_wrong(tags) if _is_whole(tags, len(data)) else None
    except MemoryError:  # not the file's fault
        raise
    except Exception:  # noqa: BLE001  damaged tags raise anything; Pillow then names the fault
        return
    if what is None and not is_open and _is_whole(tags, len(data)):
        what = _kind(tags)
    if what is not None:
        raise ValueError(f"unsupported TIFF: {what}. Save it as PNG, or as TIFF with 8 bits in RGB")


def _first_page(data: bytes) -> ImageFileDirectory_v2:
    is_big = data[2:4] in (b"+\0", b"\0+")
    tags = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags.load(file)
    return tags


def _is_whole(tags: ImageFileDirectory_v2, num_bytes: int) -> bool:
    """Tell if all strips or tiles are in the file."""
    for offsets, byte_counts in zip(OFFSETS, BYTE_COUNTS, strict=True):
        if offsets in tags and byte_counts in tags:
            ends = [start + size for start, size in zip(tags[offsets], tags[byte_counts], strict=True)]
            return WIDTH in tags and LENGTH in tags and max(ends) <= num_bytes
    return False


def _what_is_wrong(tags: ImageFileDirectory_v2) -> str | None:
    if DNG_VERSION in tags or tags.get(SUBFILE_TYPE, 0) & 1:
        return "a camera's raw file, whose first image is only a preview"
    photometric = tags.get(PHOTOMETRIC, 0)
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    if compression in JPEGS:  # libjpeg knows more of these than the tags say
        return None
    all_bits, formats = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (WHOLE,)))
    if len(all_bits) > 1 or len(formats) > 1:
        return "samples of different kinds"
    (bits,), (kind,) = all_bits, formats
    what = _kind(tags)
    if photometric == 6:
        return what if compression == UNCOMPRESSED or tags.get(PLANAR, 1) == 2 else None
    if (bits, kind) not in READ_RIGHT.get(photometric, ()):
        return what
    if tags.get(PLANAR, 1) == 2 and not _planes_are_read_right(tags, photometric, bits, compression):
        return f"{what} in separate planes"
    if compression != UNCOMPRESSED and tags.prefix == TiffImagePlugin.MM and kind != WHOLE:
        return f"{what}, compressed, with the highest byte first"
    return None


def _kind(tags: ImageFileDirectory_v2) -> str:
    photometric, kind = tags.get(PHOTOMETRIC, 0), tags.get(SAMPLE_FORMAT, (WHOLE,))[0]
    colours = COLOURS.get(photometric, f"photometric interpretation {photometric}")
    numbers = FORMATS.get(kind, f"sample format {kind}")
    return f"{colours}, {tags.get(SAMPLES, 1)} x {numbers} of {tags.get(BITS, (1,))[0]} bits"


def _planes_are_read_right(tags: ImageFileDirectory_v2, photometric: int, bits: int, compression: int) -> bool:
    if tags.get(SAMPLES, 1) == 1:
        return compression != UNCOMPRESSED or (bits == 8 and photometric in (1, 3))
    return photometric in (2, 5) and (bits == 8 or compression != UNCOMPRESSED)
