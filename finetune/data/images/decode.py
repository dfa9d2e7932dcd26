"""Images opened as training sees them, and cut.

Training sees them upright, in sRGB, opaque, with 8 bits per channel.
"""

import contextlib
import functools
import importlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from finetune.data.images.colour import UnsupportedSamples, colour_and_alpha, decoded, is_deep, to_srgb
from finetune.data.images.jpeg_xl import is_jpeg_xl, read_jpeg_xl_header
from finetune.data.images.png import Encoding, check_png, png_blocks, png_encoding
from finetune.data.images.tiff import STARTS as TIFF_STARTS
from finetune.data.images.tiff import refuse_unsupported_tiff
from finetune.extras import install_command

# Checked on the header, before a pixel is decoded: at up to 9 bytes per pixel, a process that decodes stays below 1 GB.
# Pillow's own limit, which is for the whole process, stays: it warns above 89 million pixels.
MAX_PIXELS = 100 * 2**20

# A list, so an EPS, which Pillow passes to Ghostscript, never reaches its plugin. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
PLUGINS = {"HEIF": ("pillow_heif", "heic"), "JXL": ("pillow_jxl", "jxl")}  # format -> module, and extra to install
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

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
BLANK = "one colour on the background"
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


def open_rgb(
    data: bytes, *, background: tuple[int, int, int] = (255, 255, 255), draft: tuple[int, int] | None = None
) -> Image.Image:
    """Decode an image: upright, RGB in sRGB, alpha flattened, first frame only.

    With `draft` a JPEG may be decoded at a half, quarter or eighth, but never below that (width, height), both upright.
    Raises ValueError when the bytes are not an image, are cut short or damaged, or have more than `MAX_PIXELS`. Damage
    inside a JPEG's or WebP's compressed data that still decodes cannot be seen. In the result's `info`,
    "colour_warning" says why a colour profile was ignored, for the caller to count, "blank_warning" where transparency
    leaves one colour, as of white lines on white, and "is_transparent" is there where a pixel is transparent, which an
    alpha channel alone does not mean.
    """
    image = open_header(data)
    orientation = _orientation(image, data)
    if image.format == "PNG":
        check_png(data)
    if draft is not None and image.format in ("JPEG", "MPO"):  # a HEIC's draft would be its thumbnail
        width, height = draft
        assert width > 0 and height > 0, draft
        image.draft(None, (height, width) if orientation in SIDEWAYS else (width, height))
    encoding = png_encoding(data) if image.format == "PNG" else None
    profile = image.info.get("icc_profile") if encoding is None else None
    _load(image)
    with _blamed_on_the_file("its pixels cannot be turned into RGB"):
        colour, alpha = colour_and_alpha(image, encoding)
        if is_deep(image):  # its encoding was followed where there were more than 8 bits
            encoding = encoding and Encoding(warning=encoding.warning)
        del image  # two copies of a large image would not fit
        flat, warning = to_srgb(colour, profile) if encoding is None else decoded(colour, encoding)
        del colour
    notes: dict[str | tuple[int, int], object] = {} if warning is None else {"colour_warning": warning}
    if alpha is not None:
        canvas = Image.new("RGB", flat.size, background)
        canvas.paste(flat, (0, 0), alpha)
        flat = canvas
        if is_one_colour(flat) and not is_one_colour(alpha):
            notes["blank_warning"] = BLANK
        if alpha.getextrema() != (255, 255):
            notes["is_transparent"] = True
    if orientation in UPRIGHT:
        flat = flat.transpose(UPRIGHT[orientation])
    flat.info = notes
    return flat


def open_alpha(data: bytes) -> Image.Image | None:
    """Return the alpha channel as L, upright, or None. Raises ValueError as in `open_rgb`."""
    image = open_header(data)
    orientation = _orientation(image, data)
    if image.format == "PNG":
        check_png(data)
    _load(image)
    alpha = colour_and_alpha(image)[1] if image.has_transparency_data else None
    return alpha.transpose(UPRIGHT[orientation]) if alpha is not None and orientation in UPRIGHT else alpha


def is_one_colour(image: Image.Image) -> bool:
    """Tell if all pixels of an 8-bit image are the same."""
    return all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2)))


def _load(image: ImageFile.ImageFile) -> None:
    with _blamed_on_the_file("cut short or damaged"):
        image.load()


@contextlib.contextmanager
def _blamed_on_the_file(fault: str) -> Iterator[None]:
    """Turn errors of a decoder on hostile bytes into a ValueError. They are an open set: decoders written in Rust panic
    with a BaseException. Errors that are not about the file pass."""
    try:
        yield
    except (UnsupportedSamples, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ValueError(f"{fault}: {_reason(error)}") from error


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Names, as in Pillow, of all readable formats: `FORMATS` and the plugins'."""
    return FORMATS + tuple(kind for kind in PLUGINS if _plugin_is_there(kind))


@functools.cache
def _plugin_is_there(kind: str) -> bool:
    """Make Pillow know a plugin's format, where the plugin is installed."""
    try:
        plugin = importlib.import_module(PLUGINS[kind][0])
    except ImportError:
        return False
    if kind == "HEIF":
        plugin.register_heif_opener(decode_threads=1)  # images are decoded side by side, in threads or processes
    else:
        plugin.JpegXLImagePlugin.DECODE_THREADS = 0
    return True


def upright_size(data: bytes) -> tuple[int, int]:
    """Read (width, height) after the EXIF rotation from the header. Raises ValueError for other files."""
    if is_jpeg_xl(data) and _plugin_is_there("JXL"):  # to open it decodes it
        return _jpeg_xl_size(data)
    image = open_header(data)
    width, height = image.size
    return (height, width) if _orientation(image, data) in SIDEWAYS else (width, height)


def cover_scale(width: int, height: int, target_width: int, target_height: int) -> float:
    """Return the scale at which an image covers the target. Above 1 upscales."""
    assert min(width, height, target_width, target_height) > 0, (width, height, target_width, target_height)
    return max(target_width / width, target_height / height)


def crop_loss(width: int, height: int, target_width: int, target_height: int) -> float:
    """Return the fraction of the area that covering the target cuts away."""
    scale = cover_scale(width, height, target_width, target_height)
    return max(0.0, 1.0 - (target_width / scale / width) * (target_height / scale / height))


def crop_box(
    width: int, height: int, target_width: int, target_height: int, *, left: float, top: float
) -> tuple[float, float, float, float]:
    """Return the cut's left, upper, right and lower source edge."""
    scale = cover_scale(width, height, target_width, target_height)
    box_width, box_height = min(target_width / scale, width), min(target_height / scale, height)
    x, y = left * (width - box_width), top * (height - box_height)
    return x, y, min(x + box_width, width), min(y + box_height, height)


def resize_and_crop(
    image: Image.Image, width: int, height: int, *, left: float, top: float, flip: bool
) -> np.ndarray:  # uint8 [H W 3]
    """Cut an RGB image to (width, height) as uint8 [H W 3]. `left` and `top` place the cut: 0 takes it at the left or
    upper edge, 1 at the other, 0.5 in the middle. `flip` mirrors the result. The cut is made in fractions of a source
    pixel and resampled once, so no border pixel is missing and nothing larger than the result is made."""
    assert image.mode == "RGB" and 0 <= left <= 1 and 0 <= top <= 1, (image.mode, left, top)
    box = crop_box(image.width, image.height, width, height, left=left, top=top)
    part = image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    pixels = np.array(part)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def open_header(data: bytes) -> ImageFile.ImageFile:
    """Return the image opened by Pillow, its pixels not yet decoded. Raises ValueError as in `open_rgb`."""
    if is_jpeg_xl(data) and _plugin_is_there("JXL"):
        _jpeg_xl_size(data)  # its plugin decodes all pixels at once, so their number is checked before
    try:
        with _blamed_on_the_file("cut short or damaged"):
            needs_plugin = _is_heif(data) or is_jpeg_xl(data)
            image = Image.open(io.BytesIO(data), formats=readable_formats() if needs_plugin else FORMATS)
    except ValueError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            refuse_unsupported_tiff(data, is_open=False)
            raise ValueError(_what_it_is(data)) from None
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ValueError(f"too many pixels, the limit is {MAX_PIXELS:,}: {error.__cause__}") from error
        raise
    _check_size(*image.size)
    refuse_unsupported_tiff(data, is_open=True)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"too many pixels: {width} x {height}, the limit is {MAX_PIXELS:,}")
    if width < 1 or height < 1:
        raise ValueError(f"no pixels: {width} x {height}")


def _jpeg_xl_size(data: bytes) -> tuple[int, int]:
    header = read_jpeg_xl_header(data)
    _check_size(header.width, header.height)
    return (header.height, header.width) if header.orientation in SIDEWAYS else (header.width, header.height)


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
    if not data:
        return "the file is empty"
    if not data.strip(b"\0"):
        return "the file holds zero bytes only"
    for kind, name, is_such in (("HEIF", "HEIC", _is_heif(data)), ("JXL", "JPEG XL", is_jpeg_xl(data))):
        if is_such and _plugin_is_there(kind):
            return "cut short or damaged: its header cannot be read"
        if is_such:
            command = install_command(PLUGINS[kind][1])
            return f"{name} is read by a plugin that is missing. Run: {command}, or save it as PNG"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head")):
        return "the file holds HTML, XML or SVG text, not pixels"
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", *TIFF_STARTS, b"GIF8")) or data[4:12] == b"ftypavif":
        return "cut short or damaged: its header cannot be read"
    return f"not an image in one of the formats {', '.join(FORMATS)}"


def _orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8. It is 1 without a sound EXIF block."""
    if image.format in ("TIFF", "HEIF"):  # these are turned while decoding, size and pixels
        return 1
    if image.format == "JXL":  # so is this, unless it was a JPEG, which comes out as that was
        header = read_jpeg_xl_header(data)
        return header.orientation if header.is_jpeg else 1
    try:
        exif = Image.Image.getexif(image)  # the base class: PNG's own override decodes the pixels
        if image.format == "PNG" and ORIENTATION_TAG not in exif:
            for kind, body, _ in png_blocks(data):  # the block may follow the pixels
                if kind == b"eXIf":
                    exif.load(b"Exif\0\0" + bytes(body))
        orientation = exif.get(ORIENTATION_TAG)
    except MemoryError:  # not the file's fault
        raise
    except Exception:  # noqa: BLE001  damaged blocks raise an open set
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
