"""Read size and orientation from the header of a JPEG XL. Its decoder would first unpack all pixels. The layout is that
of ISO/IEC 18181-1, "SizeHeader" and "ImageMetadata", and of the boxes in ISO/IEC 18181-2."""

from collections.abc import Iterator
from dataclasses import dataclass

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height
HEADER_BYTES = 16  # more than size and orientation ever take


@dataclass(frozen=True)
class JpegXlHeader:
    """Properties in the header."""

    width: int
    """Of the pixels as stored, like height."""
    height: int
    orientation: int
    """As in EXIF, 1 to 8."""
    is_jpeg: bool
    """Whether a JPEG was packed without loss, and is what a decoder may give back."""


def is_jpeg_xl(data: bytes) -> bool:
    """Tell by its first bytes if a file is JPEG XL."""
    return data.startswith((CODESTREAM, CONTAINER))


def read_jpeg_xl_header(data: bytes) -> JpegXlHeader:
    """Return size and orientation. Raises ValueError where the file is cut short or not JPEG XL."""
    is_jpeg, start = False, b""
    if data.startswith(CODESTREAM):
        start = data[:HEADER_BYTES]
    else:
        for kind, position, end in _boxes(data):
            is_jpeg |= kind == b"jbrd"
            if kind in (b"jxlc", b"jxlp") and len(start) < HEADER_BYTES:  # may come in parts, each with its number
                start += data[position + (4 if kind == b"jxlp" else 0) : end][:HEADER_BYTES]
    if not start.startswith(CODESTREAM) or len(start) < 8:
        raise ValueError("cut short or damaged: its header cannot be read")
    bits = _Bits(int.from_bytes(start[2:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"), "little"))
    is_small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if is_small else bits.size()
    ratio = bits.take(3)
    if ratio:
        width = height * RATIOS[ratio][0] // RATIOS[ratio][1]
    else:
        width = 8 * (bits.take(5) + 1) if is_small else bits.size()
    is_default = bits.take(1)
    has_more = 0 if is_default else bits.take(1)
    return JpegXlHeader(width, height, bits.take(3) + 1 if has_more else 1, is_jpeg)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first and last position of each box's content."""
    position = 0
    while position + 8 <= len(data):
        length, kind, head = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        end = len(data) if length == 0 else position + length
        if end < position + head:
            return
        yield kind, position + head, min(end, len(data))
        position = end


class _Bits:
    """The bits of a header, least significant first."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken

    def size(self) -> int:
        """Read a side: two bits give the number of those that follow."""
        return self.take((9, 13, 18, 30)[self.take(2)]) + 1
