import io
import struct
import zlib
from collections.abc import Mapping

import pytest
from PIL import Image, PngImagePlugin

from datasets_prep.measure.embedded import MAX_CHARACTERS, embedded_caption
from tests.support.images import encoded, gradient, png, png_block


def caption(data: bytes) -> str | None:
    image = Image.open(io.BytesIO(data))
    found = embedded_caption(image, data)
    assert image.format == "GIF" or getattr(image, "_im", None) is None  # not decoded
    return found


def with_exif(tags: Mapping[int, object] | None = None, comment: bytes | None = None, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    for tag, value in (tags or {}).items():
        exif[tag] = value
    if comment is not None:
        exif.get_ifd(0x8769)[0x9286] = comment
    return encoded(gradient(), kind, exif=exif)


def with_text(*, after: bool = False, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    if not after:
        return encoded(gradient(), pnginfo=info)
    blocks = b"".join(png_block(b"tEXt", f"{keyword}\0{text}".encode("latin-1")) for keyword, text in texts.items())
    return png(2, 1, 8, 0, b"\0\x05\x06", after=blocks)


def xmp(body: str, prolog: str = "") -> bytes:
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return (
        f'<?xpacket begin="\ufeff" id="x"?>{prolog}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/">{body}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


DESCRIBED = xmp(
    "<rdf:Description><dc:title><rdf:Alt><rdf:li>title</rdf:li></rdf:Alt></dc:title><dc:description><rdf:Alt>"
    '<rdf:li xml:lang="de">ein Boot</rdf:li><rdf:li xml:lang="x-default">a boat</rdf:li></rdf:Alt></dc:description>'
    "</rdf:Description>"
)
PARAMETERS = (
    "a red (boat:1.2) <lora:ink:0.8>\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
)


def iptc(text: bytes, dataset: int = 120) -> bytes:
    record = b"\x1c\x02" + bytes([dataset]) + struct.pack(">H", len(text)) + text
    record += b"\0" * (len(record) % 2)
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    body = b"Photoshop 3.0\0" + resource
    data = encoded(gradient(), "JPEG")
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_descriptions_are_found_in_every_format_that_of_xmp_in_the_default_language(kind: str) -> None:
    assert caption(with_exif({0x010E: "a red boat"}, kind=kind)) == "a red boat"
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", DESCRIBED.decode())
        data = encoded(gradient(), pnginfo=info)
    elif kind == "TIFF":
        data = encoded(gradient(), "TIFF", tiffinfo={700: DESCRIBED})
    else:
        data = encoded(gradient(), kind, xmp=DESCRIBED)
    assert caption(data) == "a boat"


@pytest.mark.parametrize(
    ("tags", "comment", "expected"),
    [
        ({0x9C9C: "é boat".encode("utf-16-le") + b"\0\0"}, None, "é boat"),
        ({0x9C9B: "title".encode("utf-16-le"), 0x010E: "SONY DSC"}, None, "title"),
        (None, b"ASCII\0\0\0a boat\0\0", "a boat"),
        (None, b"UNICODE\0" + "a boat".encode("utf-16-le"), "a boat"),
        (None, b"UNICODE\0" + "a böat".encode("utf-16-be"), "a böat"),
        (None, bytes(8) + b"a boat", "a boat"),
        (None, b"a boat without a charset", "a boat without a charset"),
        ({0x010E: "caf\xe9".encode()}, None, "café"),
        ({0x010E: "first"}, b"ASCII\0\0\0second", "first"),
        ({0x010E: "Default"}, b"ASCII\0\0\0   ", None),
    ],
)
def test_exif_texts_are_read_in_their_charsets(tags: dict, comment: bytes | None, expected: str | None) -> None:
    assert caption(with_exif(tags, comment)) == expected


def test_the_iptc_caption_is_found() -> None:
    assert caption(iptc("ein grünes Boot".encode())) == "ein grünes Boot"
    assert caption(iptc(b"gr\xfcn")) == "grün"
    assert caption(iptc(b"a title", 5)) == "a title"


@pytest.mark.parametrize("after", [False, True])
def test_the_text_of_a_png_is_found_before_and_behind_its_pixels(after: bool) -> None:
    assert caption(with_text(Description="a boat", Title="x", after=after)) == "a boat"
    assert caption(with_text(Software="x", Title="a title", after=after)) == "a title"


def test_packed_texts_of_a_png_are_unpacked_up_to_a_limit() -> None:
    packed = png_block(b"zTXt", b"Comment\0\0" + zlib.compress(b"a packed boat"))
    assert caption(png(2, 1, 8, 0, b"\0\1\2", before=packed)) == "a packed boat"
    international = png_block(b"iTXt", b"Title\0\1\0de\0Titel\0" + zlib.compress("ein Böot".encode()))
    assert caption(png(2, 1, 8, 0, b"\0\1\2", before=international)) == "ein Böot"
    bomb = png_block(b"zTXt", b"Comment\0\0" + zlib.compress(b"boat " * 2_000_000))
    found = caption(png(2, 1, 8, 0, b"\0\1\2", after=bomb))
    assert found is not None and len(found) <= MAX_CHARACTERS


def test_the_positive_prompt_of_a_generator_is_a_caption_and_its_workflow_is_none() -> None:
    assert caption(with_text(parameters=PARAMETERS)) == "a red (boat:1.2)"
    assert caption(with_exif(None, b"UNICODE\0" + PARAMETERS.encode("utf-16-be"))) == "a red (boat:1.2)"
    assert caption(with_text(prompt='{"3": {"class_type": "KSampler"}}', workflow='{"nodes": []}')) is None
    assert caption(with_text(Comment='{"steps": 28, "prompt": "x"}', Description="a boat")) == "a boat"
    assert caption(with_text(parameters="Steps: 20, Sampler: Euler a")) is None


@pytest.mark.parametrize(
    "text",
    [
        *("OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "Screenshot", "Screenshot 2024-05-01 at 10.00.00"),
        *("Created with GIMP", "CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 82"),
        *("File written by Adobe Photoshop 4.0", "\t \r\n\0", "0001", "----"),
        *("<html><body>x</body></html>", "https://example.com/a.jpg"),
    ],
)
def test_what_cameras_and_programs_write_is_not_a_caption(text: str) -> None:
    assert caption(with_text(Description=text)) is None
    assert caption(with_exif({0x010E: text})) is None


def test_words_that_only_begin_like_boilerplate_are_a_caption() -> None:
    for text in ("Picture of a boat", "Default settings on a screen", "Sony DSC camera on a table", "HDR sunset"):
        assert caption(with_text(Description=text)) == text


def test_control_characters_go_and_the_length_is_bounded() -> None:
    assert caption(with_exif({0x010E: "a\tred\x07\x1b boat\r\n by the sea"})) == "a red boat by the sea"
    found = caption(with_text(Description="boat " * 10_000))
    assert found is not None and 0 < len(found) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    "packet",
    [
        xmp(
            "<rdf:Description><dc:description>&b;</dc:description></rdf:Description>", '<!DOCTYPE x [<!ENTITY b "y">]>'
        ),
        b"<broken",
        b"\0",
        b"<a>" * 100_000,
        "<a/>".encode("utf-16"),
    ],
)
def test_hostile_or_broken_xmp_is_passed_over(packet: bytes) -> None:
    assert caption(encoded(gradient(), "WEBP", xmp=packet)) is None


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40)]
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_blocks_raise_nothing(exif: bytes) -> None:
    assert caption(encoded(gradient(), "JPEG", exif=exif)) is None
    assert caption(png(2, 1, 8, 0, b"\0\1\2", after=png_block(b"zTXt", b"Comment\0\0junk"))) is None
    assert caption(png(2, 1, 8, 0, b"\0\1\2", before=png_block(b"iTXt", b"Title"))) is None
    truncated = with_text(Description="a boat", after=True)
    for length in range(33, len(truncated), 7):
        data = truncated[:length]
        embedded_caption(Image.open(io.BytesIO(truncated)), data)
