"""A folder of images as hostile as real ones, with expected outcomes."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.support.images import drawn, encoded, png, png_block
from tests.support.odd_images import gif_with_huge_second_frame

KEPT = "kept"


@dataclass(frozen=True)
class Case:
    """A file and its outcome: kept, or the reason for rejection."""

    name: str
    fate: str
    content: bytes | None = None
    """None where `make` makes it."""
    make: Callable[[Path], None] | None = None
    size: tuple[int, int] | None = None
    """Of the image upright, where it is kept."""
    caption: str | None = None
    """The first caption it must get."""


def cases() -> list[Case]:
    seeds = iter(range(1000, 2000))

    def image(size: tuple[int, int] = (120, 90), mode: str = "RGB") -> Image.Image:
        return drawn(next(seeds), size).convert(mode)

    found = [
        *orientation_cases(image),
        *mode_cases(image),
        *animation_cases(image),
        *damaged_cases(image),
        *size_cases(image),
        *name_cases(image),
        *caption_cases(image),
        *special_cases(image),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


def orientation_cases(image: Callable[..., Image.Image]) -> list[Case]:
    found = []
    for value in (1, 2, 3, 4, 5, 6, 7, 8, 0, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        size = (90, 120) if value in (5, 6, 7, 8) else (120, 90)
        found.append(Case(f"exif/{value}.jpg", KEPT, encoded(image(), "JPEG", exif=exif.tobytes()), size=size))
    exif = Image.Exif()
    exif[0x0112] = 6
    found.append(Case("exif/six.png", KEPT, encoded(image(), "PNG", exif=exif.tobytes()), size=(90, 120)))
    found.append(Case("exif/garbage.jpg", KEPT, encoded(image(), "JPEG", exif=b"Exif\0\0garbage"), size=(120, 90)))
    return found


def mode_cases(image: Callable[..., Image.Image]) -> list[Case]:
    alpha = image(mode="RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 120).astype(np.uint8), (90, 1))))
    listed = bytes(range(0, 160, 10))
    deep = np.asarray(image(mode="L")).astype(np.uint16) * 257
    floats = Image.fromarray(np.asarray(image(mode="L")).astype(np.float32) / 255)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [
        Case("modes/alpha.png", KEPT, encoded(alpha)),
        Case("modes/grey_alpha.png", KEPT, encoded(alpha.convert("LA"))),
        Case("modes/alpha.webp", KEPT, encoded(alpha.transpose(Image.Transpose.ROTATE_180), "WEBP", quality=90)),
        Case("modes/palette.png", KEPT, encoded(image().quantize(32))),
        Case("modes/see_through.png", KEPT, encoded(image().quantize(16), transparency=3)),
        Case("modes/see_through_list.png", KEPT, encoded(image().quantize(16), transparency=listed)),
        Case("modes/sixteen.png", KEPT, encoded(Image.fromarray(deep))),
        Case("modes/sixteen.tif", KEPT, encoded(Image.fromarray(np.rot90(deep)), "TIFF"), size=(90, 120)),
        Case("modes/float.tif", KEPT, encoded(floats, "TIFF")),
        Case("modes/bilevel.png", KEPT, encoded(image(mode="1"))),
        Case("modes/grey.jpg", KEPT, encoded(image(mode="L"), "JPEG")),
        Case("modes/cmyk_inverted.jpg", KEPT, encoded(image(mode="CMYK"), "JPEG")),
        Case("modes/profile.jpg", KEPT, encoded(image(), "JPEG", icc_profile=profile)),
        Case("modes/broken_profile.jpg", KEPT, encoded(image(), "JPEG", icc_profile=b"not a profile")),
        Case("modes/lab.tif", KEPT, encoded(lab(image()), "TIFF")),
        Case("modes/bmp.bmp", KEPT, encoded(image(), "BMP")),
        Case("modes/ppm.ppm", KEPT, encoded(image(), "PPM")),
        Case("modes/avif.avif", KEPT, encoded(image(), "AVIF")),
        Case("modes/jpeg2000.jp2", KEPT, encoded(image(), "JPEG2000")),
    ]


def lab(picture: Image.Image) -> Image.Image:
    way = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    result = ImageCms.applyTransform(picture, way)
    assert result is not None
    return result


def animation_cases(image: Callable[..., Image.Image]) -> list[Case]:
    found = []
    for kind, suffix in (("GIF", ".gif"), ("WEBP", ".webp"), ("PNG", ".png"), ("TIFF", ".tif")):
        frames = [image() for _ in range(3)]
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        found.append(Case(f"animated/three{suffix}", KEPT, data, size=(120, 90)))
    phone = encoded(image(), "MPO", save_all=True, append_images=[image()])
    return [*found, Case("animated/phone.mpo", KEPT, phone)]


def damaged_cases(image: Callable[..., Image.Image]) -> list[Case]:
    found = []
    for kind, suffix in (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")):
        data = encoded(image((300, 200)), kind)
        for share in (50, 95):
            found.append(Case(f"damaged/{share}{suffix}", "truncated", data[: len(data) * share // 100]))
    found.append(Case("damaged/no_end.jpg", "truncated", encoded(image(), "JPEG")[:-2]))
    found.append(Case("damaged/half.avif", "truncated|decode_error", encoded(image(), "AVIF")[:-200]))
    rotten = bytearray(encoded(image((300, 200))))
    rotten[len(rotten) // 2] ^= 0xFF
    found.append(Case("damaged/rotten.png", "decode_error", bytes(rotten)))
    return [
        *found,
        Case("damaged/header.jpg", "truncated|decode_error", encoded(image(), "JPEG")[:20]),
        Case("damaged/empty.jpg", "empty_file", b""),
        Case("damaged/page.jpg", "not_an_image", b"<!doctype html><html><body>Not found</body></html>"),
        Case("damaged/zeros.png", "not_an_image", bytes(5000)),
        Case("damaged/noise.jpg", "not_an_image", np.random.default_rng(0).bytes(5000)),
        Case("damaged/text.png", "not_an_image", b"this is not an image\n"),
        Case("damaged/drawing.svg", "unsupported_format", b'<?xml version="1.0"?><svg xmlns="x"/>'),
        Case("damaged/photo.heic", "unsupported_format|decode_error", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        Case("damaged/layers.psd", "unsupported_format", b"8BPS\0\x01" + bytes(100)),
        Case("damaged/raw.dng", "unsupported_format|decode_error", b"II*\0\x08\0\0\0" + bytes(50)),
    ]


def size_cases(image: Callable[..., Image.Image]) -> list[Case]:
    side = 32000
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    header = png_block(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + png_block(b"IDAT", rows) + png_block(b"IEND", b"")
    return [
        Case("sizes/bomb.png", "too_many_pixels", bomb),
        Case("sizes/second_frame.gif", "too_many_pixels", gif_with_huge_second_frame()),
        Case("sizes/line.png", "too_many_pixels", encoded(Image.new("L", (40000, 2)))),
        Case("sizes/dot.png", "too_small|low_information", encoded(Image.new("RGB", (1, 1), "red"))),
        Case("sizes/nothing.png", "too_small|decode_error|truncated|not_an_image", png(0, 10, 8, 2, b"")),
        Case("sizes/thin.png", "too_small", encoded(image((63, 200)))),
        Case("sizes/least.png", KEPT, encoded(image((64, 64))), size=(64, 64)),
        Case("sizes/long.png", "bad_aspect", encoded(image((1000, 100)))),
        Case("sizes/black.jpg", "low_information", encoded(Image.new("RGB", (200, 200)), "JPEG")),
        Case("sizes/blank.png", "low_information", encoded(Image.new("RGB", (200, 200), "white"))),
        Case("sizes/hidden.png", "low_information", encoded(hidden(image()))),
    ]


def hidden(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    picture.putalpha(0)
    return picture


def name_cases(image: Callable[..., Image.Image]) -> list[Case]:
    names = ["with space.png", "new\nline.png", "tab\there.png", "quote\"'`.png", "#%[]*?&.png", "-dash.png"]
    names += ["trailing.png.", "<script>alert(1)<_script>.png", "UPPER.PNG", "jfif.jfif", "no_suffix", "wrong.txt.png"]
    names += ["cafe\u0301.png", "caf\u00e9.png", "\u202eright_to_left.png", "日本語 🐭.png", "n" * 200 + ".png"]
    names += ["train/test/validation.png", "dots..png", "semi;colon|pipe$(x).png"]
    found = [Case(f"names/{name}", KEPT, encoded(image(), "JPEG" if name == "jfif.jfif" else "PNG")) for name in names]
    found.append(Case("names/picture.jpg", KEPT, encoded(image())))  # a PNG by its content

    def not_utf8(root: Path) -> None:
        data = encoded(drawn(1999, (120, 90)))
        with open(os.fsencode(root) + b"/names/\xff\xfe.png", "wb") as file:
            file.write(data)

    found.append(Case(os.fsdecode(b"names/\xff\xfe.png"), "unreadable", make=not_utf8))
    return found


def caption_cases(image: Callable[..., Image.Image]) -> list[Case]:
    texts: dict[str, tuple[bytes, str | None]] = {
        "bom": (b"\xef\xbb\xbfa red car", "a red car"),
        "crlf": (b"a boat\r\nein Boot\r\n", "a boat"),
        "latin": ("ein K\u00e4se".encode("latin-1"), "ein Käse"),
        "utf16": ("ein Hündchen".encode("utf-16"), "ein Hündchen"),
        "utf16_bare": ("plain words here".encode("utf-16-le"), "plain words here"),
        "blank": (b" \n\t\n", "blank"),
        "empty": (b"", "empty"),
        "nul": (b"a\0b", "beside NUL"),
        "huge": (b"word " * 5000, ("word " * 5000).strip()),
        "markup": (b'<b>bold</b> & "quoted"', '<b>bold</b> & "quoted"'),
    }
    found = []
    for name, (data, caption) in texts.items():
        found.append(Case(f"captions/{name}.png", KEPT, encoded(image()), caption=caption))
        found.append(Case(f"captions/{name}.txt", "caption", data))
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", "a lighthouse at dusk")
    return [
        *found,
        Case("captions/embedded_0.png", KEPT, encoded(image(), pnginfo=info), caption="a lighthouse at dusk"),
        Case("captions/object.jpg", KEPT, encoded(image(), "JPEG"), caption="from an object"),
        Case("captions/object.json", "caption", b'{"caption": "from an object"}'),
        Case("captions/nul.json", "caption", b'{"caption": "beside NUL"}'),
        Case("captions/orphan.txt", "not_an_image", b"nobody's caption"),
        Case("captions/twin.jpg", KEPT, encoded(image(), "JPEG"), caption="of both"),
        Case("captions/twin.png", KEPT, encoded(image()), caption="of both"),
        Case("captions/twin.txt", "caption", b"of both"),
        Case("one/same.png", KEPT, encoded(image()), caption="in one"),
        Case("one/same.txt", "caption", b"in one"),
        Case("two/same.png", KEPT, encoded(image()), caption="in two"),
        Case("two/same.txt", "caption", b"in two"),
    ]


def special_cases(image: Callable[..., Image.Image]) -> list[Case]:
    first, second = encoded(image()), encoded(image())

    def link(target: str) -> Callable[[Path], None]:
        return lambda root: (root / "special").joinpath(target.partition(" ")[0]).symlink_to(target.partition(" ")[2])

    return [
        Case("special/first.png", KEPT, first, caption="the first"),
        Case("special/first.txt", "caption", b"the first"),
        Case("special/copy_of_first.png", "exact_duplicate", first),
        Case("special/second.png", "pixel_duplicate", second),
        Case("special/linked.png", "pixel_duplicate", make=link("linked.png second.png")),
        Case("special/dangling.png", "unreadable", make=link("dangling.png nowhere.png")),
        Case("special/itself.png", "unreadable", make=link("itself.png itself.png")),
        Case("special/loop", "not_a_file", make=link("loop ..")),
        Case("special/pipe.jpg", "not_a_file", make=lambda root: os.mkfifo(root / "special" / "pipe.jpg")),
        Case("special/.hidden.png", "nothing", encoded(image())),
        Case("special/notes.md", "not_an_image", b"# notes"),
        Case("special/pixels.bmp", KEPT, encoded(Image.open(io.BytesIO(second)), "BMP")),
    ]


def build(root: Path) -> list[Case]:
    found = cases()
    for case in found:
        path = root / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if case.content is not None:
            path.write_bytes(case.content)
    for case in found:
        if case.make is not None:
            case.make(root)
    return found
