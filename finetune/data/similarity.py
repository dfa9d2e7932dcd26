"""Which pictures may show the same: 256-bit codes of them, and a join that finds close ones without comparing all.

A code holds the signs of the lowest frequencies of the grey picture against their median (perceptual hash; Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), with 256 bits instead of 64. Torch-free,
since both the preparation of data sets and the search for memorised pictures need it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

NUM_WORDS = 4
"""Words of 64 bits in a code."""
KINDS = (
    *("as it is", "mirrored", "upside down", "turned by 180"),
    *("transposed", "turned by 90", "turned by 270", "transverse"),  # counter-clockwise, as in Pillow
    *("without its border", "its middle, 5 % cut", "its middle, 10 % cut", "its middle, 20 % cut"),
)
"""What the codes of a picture are of, in their order."""
STORED = (0, 8, 9, 10, 11)
"""The codes that others are compared with: turning one of two pictures is enough."""
CERTAIN_DISTANCE = 31
"""Bits; `close_pairs` finds every pair up to here.

Photographs so close were copies of each other wherever it was measured; drawings are not, such as two smiling faces."""
LARGEST_DISTANCE = 92
"""Bits; of pairs so far apart few are copies, and a second look has to tell."""
BAND_BITS = 16
CROPS = (0.05, 0.10, 0.20)
BORDER_TOLERANCE = 12  # grey levels by which a border's pixels may differ
SIDE, KEPT = 64, 16  # the grey picture, and its frequencies, along each side
CANDIDATES_AT_ONCE = 1 << 22


def cosine_basis(num: int, side: int) -> np.ndarray:
    """Returns the first rows of the orthogonal DCT-II [num side]."""
    rows, places = np.arange(num)[:, None], np.arange(side)[None] + 0.5
    return np.cos(np.pi * rows * places / side) * np.sqrt(2 / side)


BASIS = cosine_basis(KEPT, SIDE)
ODD = np.where(np.arange(KEPT) % 2, -1.0, 1.0)
"""What mirroring makes of the frequencies along one side."""


def picture_codes(image: Image.Image) -> np.ndarray:
    """Returns the twelve codes [12 4] (uint64) of a picture, in the order of KINDS.

    A thumbnail of 256 pixels gives the codes of the picture it was made of, but for a few bits.
    """
    grey = image.convert("L")
    low = frequencies(grey)
    flipped = [low, low * ODD[None], low * ODD[:, None], low * ODD[None] * ODD[:, None]]
    turned = [each.T for each in flipped]
    cropped = [frequencies(middle(grey, share)) for share in CROPS]
    return packed(np.stack([*flipped, *turned, frequencies(without_border(grey)), *cropped]))


def frequencies(grey: Image.Image) -> np.ndarray:
    """Returns the lowest frequencies [16 16] of a grey picture stretched to a square."""
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0), dtype=np.float64)
    return BASIS @ pixels @ BASIS.T


def packed(low: np.ndarray) -> np.ndarray:
    """Returns codes [N 4] of frequencies [N 16 16]: a bit is set where a frequency is above the median.

    The first one, which is the brightness, is left out of the median and out of the code.
    """
    flat = low.reshape(len(low), -1).copy()
    flat[:, 0] = np.median(flat[:, 1:], axis=1)
    bits = flat > flat[:, :1]
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def middle(grey: Image.Image, share: float) -> Image.Image:
    """Returns the picture without `share` of its width and height, cut off evenly."""
    width, height = grey.size
    x, y = width * share / 2, height * share / 2
    return grey.crop((round(x), round(y), max(round(width - x), round(x) + 1), max(round(height - y), round(y) + 1)))


def without_border(grey: Image.Image) -> Image.Image:
    """Returns the picture without rows and columns at its edges that are all of one tone; a flat picture as it is."""
    pixels = np.asarray(grey, dtype=np.int16)
    differs = np.abs(pixels - pixels[0, 0]) > BORDER_TOLERANCE
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return grey
    return grey.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of pictures with codes at a small distance, each pair once, sorted by the two numbers."""

    first: np.ndarray
    """[M] The smaller number of the two."""
    second: np.ndarray
    """[M]"""
    distance: np.ndarray
    """[M] Bits, the smallest of the pair's codes."""
    first_kind: np.ndarray
    """[M] Which code of the first picture it was, an index into KINDS."""
    second_kind: np.ndarray
    """[M] Which of the second."""

    def __len__(self) -> int:
        return len(self.first)


def close_pairs(codes: np.ndarray, largest: int = LARGEST_DISTANCE) -> ClosePairs:
    """Returns the pairs of pictures with a distance of at most `largest` between their codes [N 12 4].

    Finds every pair up to CERTAIN_DISTANCE, since of sixteen bands of sixteen bits one then differs in one bit at most
    (multi-index hashing; Norouzi et al., arXiv 1307.2982); beyond that, those of which a band happens to. The codes
    STORED of one picture meet all codes of the other.
    """
    stored = np.ascontiguousarray(codes[:, list(STORED)]).reshape(-1, NUM_WORDS)
    probing = np.ascontiguousarray(codes).reshape(-1, NUM_WORDS)
    best = np.zeros((0, 3), np.int64)
    for band in range(NUM_WORDS * 64 // BAND_BITS):
        close = [within(stored, probing, *rows, largest) for rows in sharing_a_band(stored, probing, band)]
        best = best_of_each(np.concatenate([best, *close]))
    left, right, distance = best.T
    kinds = np.array(STORED)[left % len(STORED)]
    return ClosePairs(left // len(STORED), right // len(KINDS), distance, kinds, right % len(KINDS))


def sharing_a_band(stored: np.ndarray, probing: np.ndarray, band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows of `stored` and of `probing` whose band differs in one bit at most, some millions at a time."""
    values = stored.view(np.uint16)[:, band]
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(np.bincount(values, minlength=1 << BAND_BITS))
    starts = np.concatenate([[0], ends[:-1]])
    for flipped in (0, *(1 << bit for bit in range(BAND_BITS))):
        wanted = probing.view(np.uint16)[:, band] ^ np.uint16(flipped)
        counts = ends[wanted] - starts[wanted]
        total = np.cumsum(counts)
        begin = 0
        while begin < len(counts):
            done = total[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(total, done + CANDIDATES_AT_ONCE, side="right")))
            part = counts[begin:end]
            rows = np.repeat(np.arange(begin, end), part)
            places = np.arange(len(rows)) - np.repeat(np.cumsum(part) - part, part)
            yield order[starts[wanted[rows]] + places], rows
            begin = end


def within(stored: np.ndarray, probing: np.ndarray, left: np.ndarray, right: np.ndarray, largest: int) -> np.ndarray:
    """Returns rows (stored, probing, distance) of two pictures, the smaller number first, that are close."""
    ordered = left // len(STORED) < right // len(KINDS)
    left, right = left[ordered], right[ordered]
    distance = np.bitwise_count(stored[left] ^ probing[right]).sum(1, dtype=np.int64)
    near = distance <= largest
    return np.stack([left[near], right[near], distance[near]], axis=1)


def best_of_each(rows: np.ndarray) -> np.ndarray:
    """Returns the closest of the rows (stored, probing, distance) of every pair of pictures, sorted by the pair."""
    first, second = rows[:, 0] // len(STORED), rows[:, 1] // len(KINDS)
    order = np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2], second, first))
    rows, first, second = rows[order], first[order], second[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return rows[is_new]
