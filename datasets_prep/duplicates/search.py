"""Search for duplicates: by bytes, by pixels, or by what images show.

Letters: N images, D width of an embedding. Stars, never long chains: images are walked through from the best to the
worst; one that repeats none so far is a keeper, and repeats of it are its duplicates. A keeper that agrees with a
duplicate of another keeper is that one's duplicate too, by one step and no more (`datasets_prep.duplicates.stars`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from datasets_prep.duplicates.appearances import Appearances, KeptBytes, Load
from datasets_prep.duplicates.candidates import EMBEDDED_SIMILARITY, FARTHEST, Level, candidates, farthest
from datasets_prep.duplicates.stars import Found, PairScores, Search, stars, with_leftovers
from datasets_prep.records import Duplicate
from finetune.similarity.codes import KINDS, ClosePairs, Codes

SAME_PIXELS_DISTANCE = 16
"""Bits; only pairs this close are opened in full and compared for equal pixels."""


def keep_order(
    num_pixels: np.ndarray, num_bytes: np.ndarray, has_caption: np.ndarray, sources: Sequence[str]
) -> np.ndarray:
    """Return the numbers of the images, the best first. Most pixels, then most bytes per pixel (least compressed), then
    captioned, then the smallest path by its bytes."""
    keys = ~has_caption, -num_bytes / np.maximum(num_pixels, 1), -num_pixels
    order = np.lexsort(keys)
    ties = np.ones(max(0, len(order) - 1), bool)
    for key in keys:
        ties &= key[order[1:]] == key[order[:-1]]
    for start, end in runs(ties):
        order[start:end] = sorted(
            order[start:end].tolist(), key=lambda number: sources[int(number)].encode("utf-8", "surrogateescape")
        )
    return order


def runs(equals_next: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of equal rows. The mask [N - 1] is true where a row equals the next."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equals_next, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        yield start, end + 1


def equal_groups(hashes: np.ndarray, numbers: np.ndarray) -> Iterator[list[int]]:
    """Yield groups of two or more `numbers` with equal hashes, in order. The hashes are [N] of 32 bytes or [N 32].
    Sorts by eight of the bytes and compares all only of those that agree, to save memory."""
    rows = np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), 32)
    heads = np.ascontiguousarray(rows[:, :8]).view(np.uint64)[:, 0][numbers]
    order = np.argsort(heads, kind="stable")
    heads = heads[order]
    for start, end in runs(heads[1:] == heads[:-1]):
        groups: dict[bytes, list[int]] = {}
        for number in numbers[order[start:end]].tolist():
            groups.setdefault(rows[number].tobytes(), []).append(number)
        yield from (group for group in groups.values() if len(group) > 1)


def exact_duplicates(sha256: np.ndarray, order: np.ndarray) -> dict[int, Duplicate]:
    """List files with the same bytes as a better one. Hashes are [N] of 32 bytes or [N 32]."""
    duplicates: dict[int, Duplicate] = {}
    for best, *others in equal_groups(sha256, order):
        duplicates.update((number, Duplicate(best, "exact_duplicate", 1.0, "same bytes")) for number in others)
    return duplicates


def pixel_duplicates(
    pixels_sha256: np.ndarray, order: np.ndarray, left: np.ndarray, load: Load
) -> dict[int, Duplicate]:
    """Find images with the same pixels as a better one. Only those in `left` [N] are searched.
    `load` opens the whole image; only images whose thumbnails have equal hashes are compared."""
    duplicates: dict[int, Duplicate] = {}
    for group in equal_groups(pixels_sha256, order[left[order]]):
        while len(group) > 1:
            keeper, others = group[0], []
            pixels = load(keeper)
            for number in group[1:]:
                if is_equal(pixels, load(number)):
                    duplicates[number] = Duplicate(keeper, "pixel_duplicate", 1.0, "same pixels")
                else:
                    others.append(number)
            group = others
    return duplicates


def is_equal(first: Image.Image, second: Image.Image) -> bool:
    """Check whether two images have the same pixels."""
    return first.size == second.size and first.tobytes() == second.tobytes()


@dataclass(frozen=True)
class SearchedImages:
    """N images to search, and how to open them."""

    codes: Codes  # [N 12 4]
    order: np.ndarray  # [N] their numbers, the best first
    mask: np.ndarray  # [N] which are searched
    flat: np.ndarray  # [N] which show so little that codes alone never make them duplicates
    load: Load
    """Gives an image at 512 pixels or more."""
    load_whole: Load | None = None
    """Gives all pixels, to find equal ones."""
    embeddings: np.ndarray | None = None  # [N D] for the level embed


@dataclass(frozen=True)
class SearchOptions:
    """Which pairs to compare, and what to report of them."""

    level: Level = "fast"
    similarity: float = EMBEDDED_SIMILARITY
    """Cosine from which two embeddings are worth a comparison."""
    with_links: bool = False
    """Compare pairs of which one is a duplicate already, too."""


@dataclass(frozen=True)
class Known:
    """Results of earlier comparisons; new ones are added to them."""

    scores: PairScores = field(default_factory=dict)
    appearances: KeptBytes = field(default_factory=dict)


@dataclass(frozen=True)
class NearDuplicates:
    """Result of a search."""

    duplicates: Mapping[int, Duplicate]
    links: Sequence[tuple[int, int]]
    """Pairs that agree, of which one is a duplicate already: with the duplicates they join all that must stay on one
    side of a split."""
    notice: str | None
    """What was not compared."""


def near_duplicates(
    images: SearchedImages, options: SearchOptions, known: Known, progress: Callable[[int, int], None]
) -> NearDuplicates:
    """Find duplicates by what the images show. Pairs with close codes are compared; at level thorough also those with
    common corners, at level embed those with close embeddings. Level fast equals thorough up to `candidates.FEW`
    images."""
    ranked = images.order[images.mask[images.order]].astype(np.int64)
    appearances = Appearances(images.load, ranked, images.flat, images.codes, known.appearances)
    descriptors = appearances.descriptors()
    pairs, is_worth = candidates(
        images.codes, ranked, descriptors, options.level, images.embeddings, options.similarity
    )
    notice = None
    if pairs.largest < farthest(len(ranked)):
        notice = f"so many have like codes that only those with up to {pairs.largest} of 256 bits apart are looked at"
    search = Search(appearances, pairs, is_worth, known.scores)
    links: list[tuple[int, int]] = []
    found = stars(search, len(ranked), links if options.with_links else None, progress)
    duplicates = duplicates_of(with_leftovers(search, found), ranked, pairs, images.load_whole)
    return NearDuplicates(duplicates, [(int(ranked[one]), int(ranked[other])) for one, other in links], notice)


def duplicates_of(
    found: Mapping[int, Found], ranked: np.ndarray, pairs: ClosePairs, load_whole: Load | None
) -> dict[int, Duplicate]:
    """Return duplicates by image number instead of rank. Those with equal pixels get that reason."""
    duplicates: dict[int, Duplicate] = {}
    for other, each in found.items():
        two, keeper, compared = (int(ranked[rank]) for rank in (other, each.keeper, each.compared_with))
        is_close = load_whole is not None and pairs.distance[each.row] <= SAME_PIXELS_DISTANCE
        if load_whole is not None and is_close and is_equal(load_whole(compared), load_whole(two)):
            duplicates[two] = Duplicate(compared, "pixel_duplicate", 1.0, "same pixels")
        else:
            detail, through = in_words(pairs, each.row), compared if compared != keeper else None
            duplicates[two] = Duplicate(keeper, "near_duplicate", round(each.score, 4), detail, through)
    return duplicates


def in_words(pairs: ClosePairs, row: int) -> str:
    """Say why a pair was compared, e.g. "mirrored, 12 of 256 bits differ"."""
    distance = int(pairs.distance[row])
    if distance == FARTHEST:
        return "parts agree"
    kinds = [int(pairs.first_kind[row]), int(pairs.second_kind[row])]
    names = [KINDS[kind] for kind in dict.fromkeys(kinds) if kind]
    return f"{' and '.join(names) or KINDS[0]}, {distance} of 256 bits differ"
