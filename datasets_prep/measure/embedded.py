"""Captions inside image files: EXIF, XMP, IPTC or PNG text."""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from PIL import Image, IptcImagePlugin

MAX_CHARACTERS = 10_000
MAX_METADATA_BYTES = 2**20

IMAGE_DESCRIPTION, USER_COMMENT, EXIF_BLOCK = 0x010E, 0x9286, 0x8769
XP_TEXTS = (0x9C9C, 0x9C9F, 0x9C9B)  # comment, subject, title, as Windows writes them
CHARSETS = {b"ASCII\0\0\0": "ascii", b"JIS\0\0\0\0\0": "iso2022_jp", bytes(8): "utf-8"}
PNG_KEYWORDS = ("description", "caption", "title", "comment", "subject")
XMP_FIELDS = ("description", "title")
XML_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xml": "http://www.w3.org/XML/1998/namespace",
}
BOILERPLATE = re.compile(
    r"""
    olympus\ digital\ camera | minolta\ digital\ camera | kodak\ digital\ still\ camera | konica\ minolta.*
    | sony\ dsc | samsung(\ camera\ pictures)? | digital\ camera | dcim | dav | edf | hdr[a-z]* | mde | ptr | cof
    | oznor | default | untitled | image | photo | picture | none | null | unknown | no\ description | comment
    | user\ comments?
    | screen\ ?shot.* | exif[_ ]jpeg[_ ](t422|picture) | jfif | ascii | unicode | binary\ comment
    | (created|made|edited|processed|saved)\ (with|by|in|using)\ .* | gimp | adobe\ photoshop.* | adobe\ \w+
    | (optimized|compressed)\ (with|by|using|jpeg).* | creator:\ .* | cs[0-9] | file\ (source|written\ by).*
    | lead\ technologies.* | intel\(r\)\ .* | [a-z]+\ encoder.* | lavc[0-9.]+ | software:\ .* | vsco(cam)?
    | https?://\S+ | [0-9a-f-]{32,} | [\W\d_]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Texts that cameras and programs write by default."""


def embedded_caption(image: Image.Image, data: bytes) -> str | None:
    """Read the caption inside an image that is opened, not decoded. None without one. What a person wrote comes first,
    in the order XMP, IPTC, EXIF, PNG; then the positive prompt from an image generator's parameters. Default texts of
    cameras and programs are not captions, nor are workflows."""
    for find in (_xmp_texts, _iptc_texts, _exif_texts, _png_texts, _parameters):
        try:
            for text in find(image, data):
                caption = _usable(text)
                if caption is not None:
                    return caption
        except Exception:  # noqa: BLE001 - blocks of hostile bytes make the parsers raise an open set
            continue
    return None


def cleaned(text: str) -> str:
    """Clean a text to one line of at most `MAX_CHARACTERS`. Control characters and lone surrogates are removed."""
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates
    text = "".join(character if character.isprintable() else " " for character in text[: 2 * MAX_CHARACTERS])
    return " ".join(text.split())[:MAX_CHARACTERS].strip()


def _usable(text: str) -> str | None:
    caption = cleaned(text)
    if not caption or BOILERPLATE.fullmatch(caption) or _is_data(caption):
        return None
    return caption


def _is_data(text: str) -> bool:
    """Recognize text meant for programs: JSON, XML, parameters, misread bytes."""
    if text[0] in "{[<" and text[-1] in "}]>":
        return True
    if "Steps: " in text and "Sampler: " in text:
        return True
    letters = sum(character.isalnum() or character.isspace() for character in text)
    return letters * 2 < len(text) or text.count("\ufffd") * 10 > len(text)


def _xmp_texts(image: Image.Image, data: bytes) -> Iterator[str]:
    packet = image.info.get("xmp") or _text_blocks(image, data).get("xml:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "surrogatepass")
    if packet is None and image.format == "TIFF":
        packet = image.getexif().get(700)
    if not isinstance(packet, bytes) or len(packet) > MAX_METADATA_BYTES:
        return
    packet = packet.strip(b"\0 \r\n\t\xef\xbb\xbf")
    if re.search(rb"<!\s*(ENTITY|DOCTYPE)", packet.replace(b"\0", b""), re.IGNORECASE):
        return  # entities can grow without bound; no program writes them
    root = ElementTree.fromstring(packet)
    for field in XMP_FIELDS:
        for element in root.iter(f"{{{XML_NAMESPACES['dc']}}}{field}"):
            found = list(element.iter(f"{{{XML_NAMESPACES['rdf']}}}li"))
            language = f"{{{XML_NAMESPACES['xml']}}}lang"
            found.sort(key=lambda item: item.get(language, "x-default") != "x-default")  # stable
            yield from (item.text or "" for item in found)
            yield element.text or ""
        for element in root.iter(f"{{{XML_NAMESPACES['rdf']}}}Description"):
            yield element.get(f"{{{XML_NAMESPACES['dc']}}}{field}", "")


def _iptc_texts(image: Image.Image, data: bytes) -> Iterator[str]:
    if image.format not in ("JPEG", "MPO", "TIFF"):
        return
    found: Mapping[Any, Any] = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    for field in ((2, 120), (2, 105), (2, 5)):  # caption, headline, title
        value = found.get(field)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, bytes):
                yield _decoded(part)


def _exif_texts(image: Image.Image, data: bytes) -> Iterator[str]:
    exif = Image.Image.getexif(image)  # the base class: PNG's own override decodes the pixels
    described = exif.get(IMAGE_DESCRIPTION, "")
    if isinstance(described, str):  # Pillow takes what should be ASCII for Latin-1, most programs write UTF-8
        described = described.encode("latin-1", "ignore")
    yield _decoded(described) if isinstance(described, bytes) else ""
    yield _user_comment(exif)
    for tag in XP_TEXTS:
        value = exif.get(tag)
        if isinstance(value, tuple):
            value = bytes(value)
        if isinstance(value, bytes):
            yield value.decode("utf-16-le", "ignore").partition("\0")[0]


def _user_comment(exif: Image.Exif) -> str:
    """Read the user comment of EXIF. Eight bytes name the charset; programs disagree on the byte order of Unicode."""
    value = exif.get_ifd(EXIF_BLOCK).get(USER_COMMENT)
    if isinstance(value, str):
        value = value.encode("latin-1", "ignore")
    if not isinstance(value, bytes):
        return ""
    charset, text = value[:8], value[8:]
    if charset == b"UNICODE\0":
        if text.startswith((b"\xff\xfe", b"\xfe\xff")):
            return text.decode("utf-16", "ignore")
        is_big = text[0::2].count(0) > text[1::2].count(0)
        return text.decode("utf-16-be" if is_big else "utf-16-le", "ignore")
    return text.decode(CHARSETS[charset], "ignore") if charset in CHARSETS else _decoded(value)


def _png_texts(image: Image.Image, data: bytes) -> Iterator[str]:
    texts = _text_blocks(image, data)
    yield from (texts.get(keyword, "") for keyword in PNG_KEYWORDS)


def _parameters(image: Image.Image, data: bytes) -> Iterator[str]:
    """Yield positive prompts of image generators. They are in the text of a PNG or an EXIF comment."""
    texts = _text_blocks(image, data)
    exif = Image.Image.getexif(image)
    for text in (texts.get("parameters", ""), texts.get("description", ""), _user_comment(exif)):
        head, mark, _ = text.partition("Steps:")
        if mark:
            yield re.sub(r"<(lora|lyco|hypernet):[^>]*>", "", head.partition("Negative prompt:")[0])


def _text_blocks(image: Image.Image, data: bytes) -> dict[str, str]:
    """Read keyword (lower case) -> text from a PNG, GIF or JPEG. Blocks after the pixels of a PNG are read too."""
    if image.format != "PNG":
        comment = image.info.get("comment")
        return {"comment": _decoded(comment)} if isinstance(comment, bytes) else {}
    texts: dict[str, str] = {}
    stream = io.BytesIO(data)
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind not in (b"tEXt", b"iTXt", b"zTXt") or length > MAX_METADATA_BYTES:
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        keyword, _, body = stream.read(length).partition(b"\0")
        stream.seek(4, io.SEEK_CUR)
        text = _block_text(kind, body)
        if text is not None:
            texts.setdefault(keyword.decode("latin-1").strip().lower(), text)
    return texts


def _block_text(kind: bytes, body: bytes) -> str | None:
    """Decode the text of a PNG block, which follows the keyword."""
    if kind == b"tEXt":
        return _decoded(body)
    if kind == b"zTXt":
        return _decoded(_inflated(body[1:]))
    is_packed, rest = body[:1] == b"\1", body[2:]
    text = rest.split(b"\0", 2)[-1]  # behind the language and the translated keyword
    return (_inflated(text) if is_packed else text).decode("utf-8", "replace")


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, MAX_METADATA_BYTES)


def _decoded(data: bytes) -> str:
    data = data.rstrip(b"\0")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
