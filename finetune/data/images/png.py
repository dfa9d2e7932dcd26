"""Check a PNG's blocks and read how its colours are encoded. Pillow does neither."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of white, red, green and blue."""
CICP_PRIMARIES = {  # ITU-T H.273, table 2
    1: SRGB_PRIMARIES,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
CICP_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 13: None}  # ITU-T H.273, table 3
GAMMA_TOLERANCE = 0.05
"""libpng's: within it, 1 / 2.2 is sRGB's own curve, which most who write it mean."""
PRIMARIES_TOLERANCE = 0.002


@dataclass(frozen=True)
class Encoding:
    """The relation of samples from 0 to 1 to light."""

    gamma: float | None = None
    """Light is the sample to this power; None is the curve of sRGB."""
    primaries: tuple[float, ...] | None = None
    """As in `SRGB_PRIMARIES`; None where they are those."""
    warning: str | None = None
    """Why the file's own encoding is not used."""


def png_blocks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield kind, content and stored checksum of each whole block."""
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


def check_png(data: bytes) -> None:
    """Raise ValueError where a block is damaged or missing. Pillow skips the checksums of the pixel blocks."""
    for kind, body, checksum in png_blocks(data):
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"damaged: the checksum of its {kind.decode('latin-1')} block is wrong")
        if kind == b"IEND":
            return
    raise ValueError("cut short: the PNG's end block is missing")


def png_encoding(data: bytes) -> Encoding | None:
    """Read a PNG's colour encoding, None if it has an ICC profile. Precedence as in the PNG specification, third
    edition, section 4.3: cICP, iCCP, sRGB, then gAMA and cHRM."""
    found: dict[bytes, bytes] = {}
    for kind, body, _ in png_blocks(data):
        if kind == b"IDAT":
            break
        if kind in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"):
            found.setdefault(kind, bytes(body))
    if len(found.get(b"cICP", b"")) == 4:
        return _from_cicp(*found[b"cICP"])
    if b"iCCP" in found:
        return None
    if b"sRGB" in found:
        return Encoding()
    return _from_gamma(found.get(b"gAMA", b""), found.get(b"cHRM", b""))


def _from_cicp(primaries: int, transfer: int, matrix: int, full_range: int) -> Encoding:
    if primaries not in CICP_PRIMARIES or transfer not in CICP_GAMMAS or matrix != 0 or full_range != 1:
        code = f"{primaries} {transfer} {matrix} {full_range}"
        return Encoding(warning=f"colours read as sRGB: the code points {code} of its cICP block are not supported")
    return Encoding(CICP_GAMMAS[transfer], _unless_srgb(CICP_PRIMARIES[primaries]))


def _from_gamma(gamma_block: bytes, chroma_block: bytes) -> Encoding:
    gamma = primaries = None
    if len(gamma_block) == 4:
        exponent = int.from_bytes(gamma_block, "big") / 100_000
        if not 0.05 <= exponent <= 20:
            return Encoding(warning=f"colours read as sRGB: its gAMA block has {exponent:g}")
        gamma = None if abs(exponent * 2.2 - 1) <= GAMMA_TOLERANCE else 1 / exponent
    if len(chroma_block) == 32:
        values = [int.from_bytes(chroma_block[start : start + 4], "big") / 100_000 for start in range(0, 32, 4)]
        if not _is_possible(values):
            return Encoding(gamma, warning="colours read as sRGB: its cHRM block has impossible primaries")
        primaries = _unless_srgb(tuple(values))
    return Encoding(gamma, primaries)


def _is_possible(values: list[float]) -> bool:
    """Check that white, red, green and blue are visible. The last three have to span an area."""
    points = [(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    if any(not (0 <= x <= 1 and 0 < y <= 1) for x, y in points[1:]) or min(points[0]) < 0.1:
        return False
    (x0, y0), (x1, y1), (x2, y2) = points[1:]
    return abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) > 0.01


def _unless_srgb(primaries: tuple[float, ...]) -> tuple[float, ...] | None:
    differences = [abs(one - other) for one, other in zip(primaries, SRGB_PRIMARIES, strict=True)]
    return None if max(differences) <= PRIMARIES_TOLERANCE else primaries
