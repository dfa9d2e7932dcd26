"""Which pictures repeat others: by all bytes, by all pixels, or nearly.

Letters: N pictures, D width of an embedding. Stars, never long chains: pictures are walked through from the best to the
worst; one that repeats none so far is a keeper, and repeats of it are its copies. A keeper that agrees with a copy of
another keeper is that one's copy too, by one step and no more (`datasets_prep.duplicates.stars`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from datasets_prep.duplicates.appearances import Appearances, InMemory, KeptBytes, Load
from datasets_prep.duplicates.candidates import EMBEDDED_SIMILARITY, FARTHEST, Level, candidates, farthest
from datasets_prep.duplicates.pair_scores import PairScores, Scores
from datasets_prep.duplicates.stars import Search, stars, with_leftovers
from datasets_prep.records import Copy
from finetune.similarity.agreement import can_verify
from finetune.similarity.codes import KINDS, ClosePairs, Codes

__all__ = ["PairScores", "Scores", "can_verify", "exact_copies", "keep_order", "near_copies", "pixel_copies"]

SAME_PIXELS_DISTANCE = 16
"""Bits; only pairs so close are looked at in full for equal pixels."""


def keep_order(
    num_pixels: np.ndarray, num_bytes: np.ndarray, has_caption: np.ndarray, sources: Sequence[str]
) -> np.ndarray:
    """Returns the numbers of pictures, the best first.

    Most pixels, then most bytes a pixel (least compressed), then captioned, then the smallest path by its bytes.
    """
    num_pixels = np.asarray(num_pixels, np.int64)
    per_pixel = np.asarray(num_bytes, np.float64) / np.maximum(num_pixels, 1)
    keys = ~np.asarray(has_caption, bool), -per_pixel, -num_pixels
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
    """Yields the start and end of the runs of two rows and more that equal the row after them (mask [N - 1])."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equals_next, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        yield start, end + 1


def equal_groups(hashes: np.ndarray, numbers: np.ndarray) -> Iterator[list[int]]:
    """Yields the groups of two and more of the `numbers` with equal hashes ([N] or [N 32] of 32 bytes), in their order.

    Sorts by eight of the bytes and compares all only of those that agree, to save memory.
    """
    rows = np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), 32)
    heads = np.ascontiguousarray(rows[:, :8]).view(np.uint64)[:, 0][numbers]
    order = np.argsort(heads, kind="stable")
    heads = heads[order]
    for start, end in runs(heads[1:] == heads[:-1]):
        groups: dict[bytes, list[int]] = {}
        for number in numbers[order[start:end]].tolist():
            groups.setdefault(rows[number].tobytes(), []).append(number)
        yield from (group for group in groups.values() if len(group) > 1)


def exact_copies(sha256: np.ndarray, order: np.ndarray) -> dict[int, Copy]:
    """Returns the copies among files by the hashes of their bytes, [N] of 32 bytes or [N 32]; all but the best."""
    copies: dict[int, Copy] = {}
    for best, *others in equal_groups(sha256, np.asarray(order)):
        copies.update((number, Copy(best, "exact_duplicate", 1.0, "same bytes")) for number in others)
    return copies


def pixel_copies(pixels_sha256: np.ndarray, order: np.ndarray, left: np.ndarray, load: Load) -> dict[int, Copy]:
    """Returns the copies in all pixels among the pictures that are left in (mask [N], or their numbers).

    `load` gives the whole picture; only those with an equal hash of their thumbnail are looked at.
    """
    copies: dict[int, Copy] = {}
    for group in equal_groups(pixels_sha256, still_in(order, left)):
        while len(group) > 1:
            keeper, others = group[0], []
            pixels = load(keeper)
            for number in group[1:]:
                if is_equal(pixels, load(number)):
                    copies[number] = Copy(keeper, "pixel_duplicate", 1.0, "same pixels")
                else:
                    others.append(number)
            group = others
    return copies


def still_in(order: np.ndarray, left: np.ndarray | set[int]) -> np.ndarray:
    """Returns the numbers of `order` that are in a mask [N] or among numbers."""
    if isinstance(left, np.ndarray) and left.dtype == bool:
        return np.asarray(order)[left[order]]
    return np.asarray(order)[np.isin(order, list(left))]


def is_equal(first: Image.Image, second: Image.Image) -> bool:
    """True where two pictures have the same pixels."""
    return first.size == second.size and first.tobytes() == second.tobytes()


def near_copies(
    codes: Codes,
    order: np.ndarray,
    mask: np.ndarray,
    flat: np.ndarray,
    load: Load,
    level: Level,
    embeddings: np.ndarray | None,
    seen: PairScores,
    progress: Callable[[int, int], None],
    similarity: float = EMBEDDED_SIMILARITY,
    load_whole: Load | None = None,
    links: list[tuple[int, int]] | None = None,
    notice: Callable[[str], None] = lambda _: None,
    kept: KeptBytes | None = None,
) -> dict[int, Copy]:
    """Returns the copies by what they show, of the pictures in `mask` [N].

    Pairs with close codes [N 12 4] are looked at, in thorough also those with corners in common, in embed those whose
    embeddings [N D] have a cosine of `similarity`; fast is thorough up to `candidates.FEW` pictures. Those in `flat`
    [N] are never taken for copies by codes alone. `load` gives pictures at 512 pixels or more; `load_whole`, if given,
    all pixels, to tell equal ones by. Where `links` are wanted, pairs of which one is a copy already are looked at too,
    and those that agree are added: with the copies they join all that must not stand on both sides of a split. `notice`
    is told what was not looked at.
    What is slow to find of an image is `kept`.
    """
    ranked = still_in(order, mask).astype(np.int64)
    looks = Appearances(load, ranked, flat, codes, InMemory() if kept is None else kept)
    pairs, is_worth = candidates(codes, ranked, looks.descriptors(), level, embeddings, similarity)
    if pairs.largest < farthest(len(ranked)):
        notice(f"so many have like codes that only those with up to {pairs.largest} of 256 bits apart are looked at")
    search = Search(looks, pairs, is_worth, seen)
    linked: list[tuple[int, int]] = []
    found = stars(search, len(ranked), None if links is None else linked, progress)
    if links is not None:
        links += [(int(ranked[one]), int(ranked[other])) for one, other in linked]
    copies: dict[int, Copy] = {}
    for other, each in with_leftovers(search, found).items():
        two, keeper, compared = (int(ranked[rank]) for rank in (other, each.keeper, each.compared_with))
        is_close = load_whole is not None and pairs.distance[each.row] <= SAME_PIXELS_DISTANCE
        if load_whole is not None and is_close and is_equal(load_whole(compared), load_whole(two)):
            copies[two] = Copy(compared, "pixel_duplicate", 1.0, "same pixels")
        else:
            through = compared if compared != keeper else None
            copies[two] = Copy(keeper, "near_duplicate", round(each.score, 4), in_words(pairs, each.row), through)
    return copies


def in_words(pairs: ClosePairs, row: int) -> str:
    """Returns what brought a pair together, e.g. "mirrored, 12 of 256 bits differ"."""
    distance = int(pairs.distance[row])
    if distance == FARTHEST:
        return "parts agree"
    kinds = [int(pairs.first_kind[row]), int(pairs.second_kind[row])]
    names = [KINDS[kind] for kind in dict.fromkeys(kinds) if kind]
    return f"{' and '.join(names) or KINDS[0]}, {distance} of 256 bits differ"
