"""Pairs of images with common corners, found by votes. The images may be turned, mirrored, scaled
or cut off. Needs OpenCV (the extra [dedup]). Letters: N images, M descriptors."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from finetune.similarity.appearance import corners_of

Descriptors = tuple[np.ndarray, np.ndarray]
"""[M 32] uint8 of an image, and of its mirror image."""
NUM_DESCRIPTORS = 150
"""Of an image, and again of its mirror image."""
FEWEST_VOTES = 6
LARGEST_DISTANCE = 48
"""Of the 256 bits of two descriptors that show the same corner."""
NUM_TABLES, KEY_BITS = 6, 24
"""Descriptors meet if all of these bits agree in a table; the bits are drawn once."""
COMMON = 64
"""Descriptors with a key that more images have are ignored; their number would be squared."""
CANDIDATES_AT_ONCE = 1 << 20


def descriptors_of(grey: Image.Image) -> Descriptors:
    """Describe the corners of a grey image and of its mirror image."""
    mirrored = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return corners_of(grey, NUM_DESCRIPTORS).descriptors, corners_of(mirrored, NUM_DESCRIPTORS).descriptors


def voted_pairs(descriptors: Iterable[Descriptors | None]) -> np.ndarray:
    """Return image pairs [M 2] that share FEWEST_VOTES corners or more. The smaller number is first."""
    nothing = np.zeros((0, 32), np.uint8)
    both = [(nothing, nothing) if each is None else each for each in descriptors]
    upright, mirrored = [one for one, _ in both], [other for _, other in both]
    if not both:
        return np.zeros((0, 2), np.int64)
    owners, codes = gathered(upright)
    found = [np.zeros((0, 2), np.int64)]
    for others in (upright, mirrored):
        other_owners, other_codes = gathered(others)
        votes = np.zeros(0, np.int64)
        for bits in table_bits():
            rows = met(key_of(codes, bits), key_of(other_codes, bits))
            votes = np.concatenate([votes, *close_votes(rows, (owners, codes), (other_owners, other_codes))])
            votes = np.unique(votes)
        pairs = np.stack([owners[votes >> 32], other_owners[votes & 0xFFFFFFFF]], axis=1)
        pairs, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
        found.append(pairs[counts >= FEWEST_VOTES])
    return np.unique(np.concatenate(found), axis=0)


def gathered(descriptors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return owners [M] and 64-bit words [M 4] of all descriptors."""
    owners = np.repeat(np.arange(len(descriptors)), [len(each) for each in descriptors])
    return owners, np.ascontiguousarray(np.concatenate(descriptors)).view(np.uint64)


def table_bits() -> list[np.ndarray]:
    """Return the bits that make the key of each table."""
    rng = np.random.default_rng(0)
    return [rng.permutation(256)[:KEY_BITS] for _ in range(NUM_TABLES)]


def key_of(codes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the keys [M] of codes [M 4]."""
    key = np.zeros(len(codes), np.uint32)
    for bit in bits:
        key = key << np.uint32(1) | (codes[:, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).astype(np.uint32)
    return key


def met(keys: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows with equal keys, some at a time."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.searchsorted(ranked, others, side="left")
    counts = np.searchsorted(ranked, others, side="right") - starts
    counts[counts > COMMON] = 0
    total = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + CANDIDATES_AT_ONCE, side="right")))
        part = counts[begin:end]
        rows = np.repeat(np.arange(begin, end), part)
        places = np.repeat(starts[begin:end] - (total[begin:end] - part - done), part) + np.arange(len(rows))
        yield order[places], rows
        begin = end


def close_votes(
    rows: Iterable[tuple[np.ndarray, np.ndarray]],
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
) -> Iterator[np.ndarray]:
    """Yield close pairs of descriptors of two images. A pair is the first number above 32 bits of the second."""
    for left, right in rows:
        differs = first[0][left] != second[0][right]
        left, right = left[differs], right[differs]
        distance = np.bitwise_count(first[1][left] ^ second[1][right]).sum(1, dtype=np.uint16)
        near = distance <= LARGEST_DISTANCE
        yield left[near].astype(np.int64) << 32 | right[near]
