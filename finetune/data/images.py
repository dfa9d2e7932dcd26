"""Opens a picture the way training sees it (upright, sRGB, opaque, 8 bits a channel) and cuts it to a given size."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from finetune.data.colour import colour_and_alpha, to_srgb

# Checked on the header, before a pixel is decoded: at up to 9 bytes a pixel, a process that decodes stays below 1 GB.
# Pillow's own limit, which holds for the whole process, is left alone: it warns above 89 million pixels.
MAX_PIXELS = 100 * 2**20

# Named one by one so that an EPS, which Pillow hands to Ghostscript, never reaches its plugin. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")

ORIENTATION_TAG = 0x0112
UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


def open_rgb(
    data: bytes, *, background: tuple[int, int, int] = (255, 255, 255), draft: tuple[int, int] | None = None
) -> Image.Image:
    """Returns the fully decoded picture: upright, RGB in sRGB, alpha flattened onto `background`, first frame only.

    With `draft` a JPEG may be decoded at a half, quarter or eighth, but never below that (width, height), both upright.
    Raises ValueError when the bytes are no picture, are cut short or damaged, or hold more than `MAX_PIXELS`. Damage
    inside a JPEG's or WebP's compressed data that still decodes cannot be seen. A colour profile that cannot be used is
    ignored; the result's `info["colour_warning"]` then says why, for the caller to count.
    """
    image = _open_header(data)
    orientation = _orientation(image, data)
    if image.format == "PNG":
        _check_png(data)
    if draft is not None:
        width, height = draft
        assert width > 0 and height > 0, draft
        image.draft(None, (height, width) if orientation in SIDEWAYS else (width, height))
    profile = image.info.get("icc_profile")
    try:
        image.load()
    except Exception as error:  # what a decoder raises on hostile bytes is an open set; all of it means this
        raise ValueError(f"cut short or damaged: {_reason(error)}") from error
    try:
        colour, alpha = colour_and_alpha(image)
        del image  # of large pictures no second copy is kept
        picture, warning = to_srgb(colour, profile)
        del colour
    except Exception as error:
        raise ValueError(f"its pixels cannot be turned into RGB: {_reason(error)}") from error
    if alpha is not None:
        canvas = Image.new("RGB", picture.size, background)
        canvas.paste(picture, (0, 0), alpha)
        picture = canvas
    if orientation in UPRIGHT:
        picture = picture.transpose(UPRIGHT[orientation])
    picture.info = {} if warning is None else {"colour_warning": warning}
    return picture


def upright_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) after the EXIF rotation, from the header alone; ValueError where that is no picture's."""
    image = _open_header(data)
    width, height = image.size
    return (height, width) if _orientation(image, data) in SIDEWAYS else (width, height)


def cover_scale(width: int, height: int, target_width: int, target_height: int) -> float:
    """Returns the least factor by which a picture must grow to cover the target; above 1 it is upscaled."""
    assert min(width, height, target_width, target_height) > 0, (width, height, target_width, target_height)
    return max(target_width / width, target_height / height)


def crop_loss(width: int, height: int, target_width: int, target_height: int) -> float:
    """Returns the fraction of the picture's area, 0 to 1, that is cut away once it covers the target."""
    scale = cover_scale(width, height, target_width, target_height)
    return max(0.0, 1.0 - (target_width / scale / width) * (target_height / scale / height))


def resize_and_crop(
    image: Image.Image, width: int, height: int, *, left: float, top: float, flip: bool
) -> np.ndarray:  # uint8 [H W 3]
    """Returns the part of an RGB picture that fills (width, height) with its aspect kept, as uint8 [H W 3].

    `left` and `top` say where the part lies: 0 takes it at the left or upper edge, 1 at the other, 0.5 in the middle.
    `flip` mirrors the part after it is cut. The cut is made in fractions of a source pixel and resampled once, so no
    border pixel is missing and nothing larger than the result is made.
    """
    assert image.mode == "RGB" and 0 <= left <= 1 and 0 <= top <= 1, (image.mode, left, top)
    scale = cover_scale(image.width, image.height, width, height)
    box_width = min(width / scale, image.width)
    box_height = min(height / scale, image.height)
    x = left * (image.width - box_width)
    y = top * (image.height - box_height)
    box = (x, y, min(x + box_width, image.width), min(y + box_height, image.height))
    part = image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    pixels = np.array(part)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def _open_header(data: bytes) -> ImageFile.ImageFile:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(data)) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels, the limit is {MAX_PIXELS:,}: {error}") from error
    except Exception as error:  # see open_rgb
        raise ValueError(f"cut short or damaged: {_reason(error)}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"too many pixels: {width} x {height}, the limit is {MAX_PIXELS:,}")
    if width < 1 or height < 1:
        raise ValueError(f"no pixels: {width} x {height}")
    return image


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
    if not data:
        return "the file is empty"
    if not data.strip(b"\0"):
        return "the file holds zero bytes only"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIC pictures are not read: save it as JPEG or PNG"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head")):
        return "the file holds HTML, XML or SVG text, not pixels"
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8")) or data[4:12] == b"ftypavif":
        return "cut short or damaged: its header cannot be read"
    return f"not a picture in one of the formats {', '.join(FORMATS)}"


def _orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """EXIF orientation 1 to 8 of the stored pixels; without an EXIF block, or with a damaged one, 1."""
    if image.format == "TIFF":  # Pillow turns TIFF itself, size and pixels
        return 1
    try:
        exif = Image.Image.getexif(image)  # the base class: PNG's own override decodes the pixels
        if image.format == "PNG" and ORIENTATION_TAG not in exif:
            for kind, body, _ in _png_blocks(data):  # the block may stand behind the pixels
                if kind == b"eXIf":
                    exif.load(b"Exif\0\0" + bytes(body))
        orientation = exif.get(ORIENTATION_TAG)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _png_blocks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Kind, content and stored checksum of each whole block."""
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if end + 4 > len(data):
            return
        yield (
            bytes(view[position + 4 : position + 8]),
            view[position + 8 : end],
            int.from_bytes(view[end : end + 4], "big"),
        )
        position = end + 4


def _check_png(data: bytes) -> None:
    """Raises ValueError where a block is damaged or missing; Pillow passes over the checksums of the pixel blocks."""
    for kind, body, checksum in _png_blocks(data):
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"damaged: the checksum of its {kind.decode('latin-1')} block is wrong")
        if kind == b"IEND":
            return
    raise ValueError("cut short: the PNG's end block is missing")
