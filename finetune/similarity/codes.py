"""Codes of 256 bits, and a join that finds close ones.

It does not compare all pairs. A code has the signs of the lowest frequencies of the grey image against their median
(perceptual hash; Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), with 256 bits
instead of 64. Torch-free, since both the preparation of datasets and the search for memorised images need it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

NUM_WORDS = 4
"""Words of 64 bits in a code."""
KINDS = (
    *("as it is", "mirrored", "upside down", "turned by 180"),
    *("transposed", "turned by 90", "turned by 270", "transverse"),  # counter-clockwise, as in Pillow
    *("without its border", "its middle, 5 % cut", "its middle, 10 % cut", "its middle, 20 % cut"),
)
"""The views of an image that have codes, in order."""
MEETINGS = (
    ((0,), tuple(range(12))),  # the first as it is may be the second turned, framed or cropped
    ((8, 9, 10, 11), tuple(range(8))),  # the second, as it is or turned, may be what is left of the first
    ((8,), (8,)),  # both may be framed
)
"""Which codes of the first image are compared with which of the second; all 144 would find no more."""
CERTAIN_DISTANCE = 31
"""Bits; `close_pairs` finds every pair up to here.

All photographs measured this close were duplicates; drawings may not be, such as two smiling faces.
"""
LARGEST_DISTANCE = 92
"""Bits; few pairs at this distance are duplicates, and a second comparison decides."""
BAND_BITS = 16
CROPS = (0.05, 0.10, 0.20)
BORDER_TOLERANCE = 12  # grey levels by which a border's pixels may differ
SIDE, KEPT = 64, 16  # the grey image, and its frequencies, along each side
CANDIDATES_AT_ONCE = 1 << 18  # their intermediate results fit the processor's cache
PAIRS_PER_IMAGE, FEWEST_KEPT = 64, 2_000_000
ROWS_AT_ONCE = 1 << 22  # found rows that are kept before the best of each pair are taken
COMPARED_AT_ONCE = 64  # rows; their counts fit the processor's cache
ALL_COMPARED = 4096  # up to so many images all are compared, which finds every pair up to any distance


def cosine_basis(num: int, side: int) -> np.ndarray:
    """Return the first rows of the orthogonal DCT-II [num side]."""
    rows, places = np.arange(num)[:, None], np.arange(side)[None] + 0.5
    return np.cos(np.pi * rows * places / side) * np.sqrt(2 / side)


BASIS = cosine_basis(KEPT, SIDE)
ODD = np.where(np.arange(KEPT) % 2, -1.0, 1.0)
"""Signs of the frequencies along one side after mirroring."""


def image_codes(image: Image.Image) -> np.ndarray:
    """Return an image's codes [12 4] (uint64), ordered as KINDS. A thumbnail of 256 pixels has nearly the same."""
    grey = image.convert("L")
    low = frequencies(grey)
    flipped = [low, low * ODD[None], low * ODD[:, None], low * ODD[None] * ODD[:, None]]
    turned = [each.T for each in flipped]
    trimmed = without_border(grey)
    trimmed_low = low if trimmed.size == grey.size else frequencies(trimmed)
    cropped = [frequencies(middle(grey, share)) for share in CROPS]
    return packed(np.stack([*flipped, *turned, trimmed_low, *cropped]))


def frequencies(grey: Image.Image) -> np.ndarray:
    """Return the lowest frequencies [16 16] of a grey, squared image."""
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0), dtype=np.float64)
    return BASIS @ pixels @ BASIS.T


def packed(low: np.ndarray) -> np.ndarray:
    """Return codes [N 4]: frequencies [N 16 16] above the median. Both leave out the first, the brightness."""
    flat = low.reshape(len(low), -1).copy()
    flat[:, 0] = np.median(flat[:, 1:], axis=1)
    bits = flat > flat[:, :1]
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)


def middle(grey: Image.Image, share: float) -> Image.Image:
    """Cut `share` of width and height off evenly."""
    width, height = grey.size
    x, y = width * share / 2, height * share / 2
    return grey.crop((round(x), round(y), max(round(width - x), round(x) + 1), max(round(height - y), round(y) + 1)))


def without_border(grey: Image.Image) -> Image.Image:
    """Cut off rows and columns of one tone at the edges. A flat image stays as it is."""
    return grey.crop(border_box(grey))


def border_box(grey: Image.Image) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom within edges of one tone."""
    pixels = np.asarray(grey, dtype=np.int16)
    differs = np.abs(pixels - pixels[0, 0]) > BORDER_TOLERANCE
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 0, 0, grey.width, grey.height
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of images with close codes, each once, sorted by their numbers."""

    first: np.ndarray
    """[M] The smaller number of the two."""
    second: np.ndarray
    """[M]"""
    distance: np.ndarray
    """[M] Bits, the smallest of the pair's codes."""
    first_kind: np.ndarray
    """[M] Which code of the first image it was, an index into KINDS."""
    second_kind: np.ndarray
    """[M] Which of the second."""
    largest: int = LARGEST_DISTANCE
    """Largest distance in bits of these pairs; smaller than requested where there were too many."""

    def __len__(self) -> int:
        return len(self.first)


class Codes(Protocol):
    """Codes [N 12 4] (uint64), an array or a reader of files. The index is an image, an array of images,
    or one kind of all (codes[:, kind])."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: int | np.ndarray | tuple[slice, int], /) -> np.ndarray: ...


def close_pairs(codes: Codes, largest: int = LARGEST_DISTANCE, chosen: np.ndarray | None = None) -> ClosePairs:
    """Find images whose codes differ by at most `largest` bits.

    Finds every pair up to CERTAIN_DISTANCE: one of its sixteen bands of sixteen bits then differs in at most one bit
    (multi-index hashing; Norouzi et al., arXiv 1307.2982). Beyond that it finds only pairs with such a band, and all
    pairs among at most ALL_COMPARED images. The codes of MEETINGS are compared. Codes [N 12 4] may also be [N 1 4], of
    the images as they are. With `chosen` the result counts in that choice of numbers, without a copy of the codes. Of
    more than PAIRS_PER_IMAGE pairs per image, as for thousands of icons, the closest stay.
    """
    chosen = np.arange(codes.shape[0]) if chosen is None else chosen
    search = all_pairs if len(chosen) <= ALL_COMPARED else banded_pairs
    most = max(FEWEST_KEPT, PAIRS_PER_IMAGE * len(chosen))
    best, waiting, num_waiting = np.zeros((0, 5), np.int32), [], 0
    for rows in search(codes, chosen, largest):
        waiting.append(rows[rows[:, 2] <= largest])
        num_waiting += len(waiting[-1])
        if num_waiting > ROWS_AT_ONCE:
            best, largest = thinned(best_of_each(np.concatenate([best, *waiting])), most, largest)
            waiting, num_waiting = [], 0
    best, largest = thinned(best_of_each(np.concatenate([best, *waiting])), most, largest)
    return ClosePairs(*best.T, largest=largest)


def thinned(rows: np.ndarray, most: int, largest: int) -> tuple[np.ndarray, int]:
    """Return the closest of the rows, about `most`, and their largest distance."""
    while len(rows) > most and largest > CERTAIN_DISTANCE:
        largest -= 1
        rows = rows[rows[:, 2] <= largest]
    return rows, largest


def meetings(num_kinds: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield those of MEETINGS that are among the first kinds."""
    for first, second in MEETINGS:
        first, second = (tuple(kind for kind in kinds if kind < num_kinds) for kinds in (first, second))
        if first and second:
            yield first, second


def all_pairs(stored: Codes, chosen: np.ndarray, largest: int) -> Iterator[np.ndarray]:
    """Compare all codes, and yield the close ones. Rows are first, second, distance, first kind, second kind."""
    codes = stored[chosen]
    for first_kinds, second_kinds in meetings(codes.shape[1]):
        for one, other in ((one, other) for one in first_kinds for other in second_kinds):
            ones, others = (np.ascontiguousarray(codes[:, kind].T) for kind in (one, other))
            for start in range(0, len(codes), COMPARED_AT_ONCE):
                rows, later = ones[:, start : start + COMPARED_AT_ONCE, None], others[:, None, start:]
                bits = np.bitwise_count(rows[0] ^ later[0])
                for word in range(1, NUM_WORDS):
                    bits += np.bitwise_count(rows[word] ^ later[word])
                first, second = np.nonzero(bits <= largest)  # 256 bits, a negative, count as 0 here
                ordered = first < second
                first, second = first[ordered] + start, second[ordered] + start
                distance = np.bitwise_count(codes[first, one] ^ codes[second, other]).sum(-1, dtype=np.int32)
                yield found_rows(first, second, distance, one, other)


def banded_pairs(codes: Codes, chosen: np.ndarray, largest: int) -> Iterator[np.ndarray]:
    """Yield close codes with a band that differs in one bit. A row may appear several times. Codes of two kinds are in
    memory at a time, 120 bytes per image with everything derived from them."""
    for band in range(NUM_WORDS * 64 // BAND_BITS):
        for first_kinds, second_kinds in meetings(codes.shape[1]):
            for one in first_kinds:
                stored = InBand.sorted_by(codes[:, one], chosen, band)
                for other in second_kinds:
                    probing = stored if other == one else InBand.sorted_by(codes[:, other], chosen, band)
                    for first, second, distance in stored.close_to(probing, largest):
                        yield found_rows(first, second, distance, one, other)
                    del probing  # before the next is made
                del stored


@dataclass(frozen=True)
class InBand:
    """Codes of one kind, sorted by a band's bits, then by image."""

    codes: np.ndarray
    """[N 4]"""
    keys: np.ndarray
    """[N] The band's bits above 32 bits of the image's number."""
    starts: np.ndarray
    """[2^16] Where each value begins."""

    @classmethod
    def sorted_by(cls, codes: np.ndarray, chosen: np.ndarray, band: int) -> "InBand":
        """Return the chosen ones of codes [. 4] sorted by their band."""
        word, place = divmod(band, 64 // BAND_BITS)
        values = (codes[chosen, word] >> np.uint64(place * BAND_BITS)).astype(np.uint16)
        order = np.argsort(values, kind="stable")
        keys = values[order].astype(np.int64) << 32
        keys |= order
        counts = np.bincount(values, minlength=1 << BAND_BITS)
        return cls(codes[chosen[order]], keys, np.cumsum(counts) - counts)

    def close_to(self, probing: "InBand", largest: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield close codes whose band differs by a bit at most. Image, image of `probing`, distance."""
        for flipped in (0, *(1 << bit for bit in range(BAND_BITS))):
            wanted = probing.keys ^ (flipped << 32)
            starts = self.starts[wanted >> 32]
            total = np.cumsum(np.searchsorted(self.keys, wanted) - starts)  # earlier images with the wanted band
            begin = 0
            while begin < len(total):
                done = total[begin - 1] if begin else 0
                end = max(begin + 1, int(np.searchsorted(total, done + CANDIDATES_AT_ONCE, side="right")))
                counts = np.diff(total[begin:end], prepend=done)
                rows = np.repeat(np.arange(begin, end), counts)
                before = total[begin:end] - counts - done
                places = np.repeat(starts[begin:end] - before, counts) + np.arange(len(rows))
                kept, distance = within(self.codes, places, probing.codes, rows, largest)
                yield self.keys[places[kept]] & 0xFFFFFFFF, probing.keys[rows[kept]] & 0xFFFFFFFF, distance
                begin = end


def within(
    first: np.ndarray, places: np.ndarray, second: np.ndarray, rows: np.ndarray, largest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs first[places] and second[rows] are close, and their distances. Half of a code leaves few of
    the pairs in most cases, so the other half is compared for those only."""
    half = NUM_WORDS // 2
    distance = np.zeros(len(rows), np.uint16)
    kept = np.arange(len(rows))
    for words in (range(half), range(half, NUM_WORDS)):
        for word in words:
            distance += np.bitwise_count(first[places, word] ^ second[rows, word])
        near = np.flatnonzero(distance <= largest)
        kept, distance, places, rows = kept[near], distance[near], places[near], rows[near]
    return kept, distance


def found_rows(first: np.ndarray, second: np.ndarray, distance: np.ndarray, one: int, other: int) -> np.ndarray:
    """Return rows [M 5] of pairs and their kinds."""
    kinds = np.full(len(first), one), np.full(len(first), other)
    return np.stack([first, second, distance, *kinds], axis=1).astype(np.int32)


def best_of_each(rows: np.ndarray) -> np.ndarray:
    """Return every image pair's closest row, sorted by the pair."""
    order = np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))
    rows = rows[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows[1:, :2] != rows[:-1, :2]).any(1)
    return rows[is_new]
