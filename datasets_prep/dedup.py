"""Which pictures repeat others: by all bytes, by all pixels, or nearly.

Letters: N pictures, D width of an embedding. Stars, never chains: pictures are walked through from the best to the
worst; one that repeats none so far is a keeper, and repeats of it are its copies. A copy of a copy that is no copy of
the keeper stays.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from datasets_prep.records import Copy
from finetune.data.alike import CERTAIN, LIKELY, Look, agreement, can_verify, is_worth_a_look, look_at
from finetune.data.similarity import KINDS, LARGEST_DISTANCE, ClosePairs, close_pairs
from finetune.data.votes import voted_pairs

__all__ = ["PairScores", "Scores", "can_verify", "exact_copies", "keep_order", "near_copies", "pixel_copies"]

EMBEDDED_SIMILARITY = 0.6
LOOKS_KEPT = 256
"""Pictures whose looks stay in memory, about 1 MB each."""
FARTHEST = 256
"""Bits; the distance of pairs that no codes brought together."""
FEW = 2048
"""Up to so many pictures fast looks for corners in common too, since that takes seconds."""
SAME_PIXELS_DISTANCE = 16
"""Bits; only pairs so close are looked at in full for equal pixels."""
Load = Callable[[int], Image.Image]


class PairScores(Protocol):
    """Agreements of pairs that were looked at before; the first is the better one of the two in the keep order."""

    def get(self, first: int, second: int) -> float | None:
        """Returns the agreement of two pictures, None if they were not looked at."""
        ...

    def put(self, first: int, second: int, score: float) -> None:
        """Notes it."""
        ...


class Scores:
    """Agreements in memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], float] = {}

    def get(self, first: int, second: int) -> float | None:
        """Returns the agreement of two pictures, None if they were not looked at."""
        return self.known.get((first, second))

    def put(self, first: int, second: int, score: float) -> None:
        """Notes it."""
        self.known[first, second] = score


def keep_order(
    num_pixels: np.ndarray, num_bytes: np.ndarray, has_caption: np.ndarray, sources: Sequence[str]
) -> np.ndarray:
    """Returns the numbers of pictures, the best first.

    Most pixels, then most bytes a pixel (least compressed), then captioned, then the smallest path by its bytes.
    """
    paths = sorted(range(len(sources)), key=lambda row: sources[row].encode("utf-8", "surrogateescape"))
    by_path = np.empty(len(sources), np.int64)
    by_path[paths] = np.arange(len(sources))
    per_pixel = np.asarray(num_bytes, np.float64) / np.maximum(num_pixels, 1)
    keys = (by_path, ~np.asarray(has_caption, bool), -per_pixel, -np.asarray(num_pixels, np.int64))
    return np.lexsort(keys)


def exact_copies(sha256: np.ndarray, order: np.ndarray) -> dict[int, Copy]:
    """Returns the copies among files by the hashes of their bytes, [N] of 32 bytes or [N 32]; all but the best."""
    keeper: dict[bytes, int] = {}
    copies: dict[int, Copy] = {}
    for number in map(int, order):
        best = keeper.setdefault(sha256[number].tobytes(), number)
        if best != number:
            copies[number] = Copy(best, "exact_duplicate", 1.0, "same bytes")
    return copies


def pixel_copies(pixels_sha256: np.ndarray, order: np.ndarray, left: np.ndarray, load: Load) -> dict[int, Copy]:
    """Returns the copies in all pixels among the pictures that are left in (mask [N], or their numbers).

    `load` gives the whole picture; only those with an equal hash of their thumbnail are looked at.
    """
    groups: dict[bytes, list[int]] = {}
    for number in still_in(order, left):
        groups.setdefault(pixels_sha256[number].tobytes(), []).append(number)
    copies: dict[int, Copy] = {}
    for group in groups.values():
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


def still_in(order: np.ndarray, left: np.ndarray | set[int]) -> list[int]:
    """Returns the numbers of `order` that are in a mask or among numbers."""
    if isinstance(left, set):
        return [number for number in map(int, order) if number in left]
    left = np.asarray(left)
    mask = left if left.dtype == bool else np.isin(np.arange(len(order)), left)
    return [int(number) for number in order if mask[number]]


def is_equal(first: Image.Image, second: Image.Image) -> bool:
    """True where two pictures have the same pixels."""
    return first.size == second.size and first.tobytes() == second.tobytes()


def near_copies(
    codes: np.ndarray,
    order: np.ndarray,
    mask: np.ndarray,
    flat: np.ndarray,
    load: Load,
    level: Literal["fast", "thorough", "embed"],
    embeddings: np.ndarray | None,
    seen: PairScores,
    progress: Callable[[int, int], None],
    similarity: float = EMBEDDED_SIMILARITY,
    load_whole: Load | None = None,
) -> dict[int, Copy]:
    """Returns the copies by what they show, of the pictures in `mask` [N].

    Pairs with close codes [N 12 4] are looked at, in thorough also those with corners in common, in embed those whose
    embeddings [N D] have a cosine of `similarity`. Pictures in `flat` [N] are never taken for copies by codes alone.
    `load` gives pictures at 512 pixels or more; `load_whole`, where given, all pixels, to tell equal ones by.
    """
    ranked = np.array(still_in(order, mask), dtype=np.int64)
    looks = Looks(load, ranked, flat)
    pairs = candidates(codes[ranked], looks, level, None if embeddings is None else embeddings[ranked], similarity)
    starts = np.searchsorted(pairs.first, np.arange(len(ranked) + 1))
    is_copy = np.zeros(len(ranked), bool)
    copies: dict[int, Copy] = {}
    for keeper in range(len(ranked)):
        for row in () if is_copy[keeper] else range(starts[keeper], starts[keeper + 1]):
            other = int(pairs.second[row])
            if is_copy[other]:
                continue
            one, two = int(ranked[keeper]), int(ranked[other])
            score = seen.get(one, two)
            if score is None:
                score = looked_at(looks, pairs, row)
                seen.put(one, two, score)
            distance = int(pairs.distance[row])
            if score < (CERTAIN if distance <= LARGEST_DISTANCE else LIKELY):
                continue
            is_copy[other] = True
            copies[two] = Copy(one, "near_duplicate", round(score, 4), in_words(pairs, row))
            if (
                load_whole is not None
                and distance <= SAME_PIXELS_DISTANCE
                and is_equal(load_whole(one), load_whole(two))
            ):
                copies[two] = Copy(one, "pixel_duplicate", 1.0, "same pixels")
        progress(keeper + 1, len(ranked))
    return copies


def looked_at(looks: "Looks", pairs: ClosePairs, row: int) -> float:
    """Returns the agreement of a pair."""
    first, second, distance = int(pairs.first[row]), int(pairs.second[row]), int(pairs.distance[row])
    kinds = (int(pairs.first_kind[row]), int(pairs.second_kind[row])) if distance < FARTHEST else None
    if kinds is not None and not is_worth_a_look(*looks.nature_of(first, second), distance):
        return 0.0
    return agreement(looks[first], looks[second], kinds, distance)


def in_words(pairs: ClosePairs, row: int) -> str:
    """Returns what brought a pair together, e.g. "mirrored, 12 of 256 bits differ"."""
    distance = int(pairs.distance[row])
    if distance == FARTHEST:
        return "parts agree"
    kinds = [int(pairs.first_kind[row]), int(pairs.second_kind[row])]
    names = [KINDS[kind] for kind in dict.fromkeys(kinds) if kind]
    return f"{' and '.join(names) or KINDS[0]}, {distance} of 256 bits differ"


class Looks:
    """Pictures as they are compared, in their ranks; those used last stay in memory."""

    def __init__(self, load: Load, ranked: np.ndarray, flat: np.ndarray) -> None:
        self.load, self.ranked, self.flat = load, ranked, flat
        self.kept: OrderedDict[int, Look] = OrderedDict()
        self.nature: dict[int, tuple[bool, bool]] = {}  # whether simple, whether plain

    def __getitem__(self, rank: int) -> Look:
        if rank in self.kept:
            self.kept.move_to_end(rank)
            return self.kept[rank]
        number = int(self.ranked[rank])
        look = look_at(self.load(number), is_simple=bool(self.flat[number]))
        self.kept[rank] = look
        self.nature[rank] = look.is_simple, look.is_plain
        if len(self.kept) > LOOKS_KEPT:
            self.kept.popitem(last=False)
        return look

    def nature_of(self, first: int, second: int) -> tuple[bool, bool]:
        """Returns whether either picture is simple, and whether both are plain."""
        for rank in (first, second):
            if rank not in self.nature:
                self[rank]
        one, other = self.nature[first], self.nature[second]
        return one[0] or other[0], one[1] and other[1]


def candidates(
    codes: np.ndarray, looks: Looks, level: str, embeddings: np.ndarray | None, similarity: float
) -> ClosePairs:
    """Returns the pairs to look at, in ranks."""
    pairs = close_pairs(codes)
    if can_verify() and (level == "thorough" or (level == "fast" and len(codes) <= FEW)):
        return joined(pairs, voted_pairs((looks[rank].grey for rank in range(len(codes))), len(codes)))
    if level == "embed":
        if embeddings is None:
            raise ValueError("dedup.level: got embed without embeddings. Set dedup.embed_model to a vision model.")
        return joined(pairs, np.concatenate([np.zeros((0, 2), np.int64), *neighbours(embeddings, similarity)]))
    return pairs


def neighbours(embeddings: np.ndarray, similarity: float, num_at_once: int = 1024) -> Iterator[np.ndarray]:
    """Yields pairs [M 2] of embeddings [N D] with a cosine of at least `similarity`, the smaller number first."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    for start in range(0, len(unit), num_at_once):
        first, second = np.nonzero(unit[start : start + num_at_once] @ unit[start:].T >= similarity)
        found = np.stack([first, second], axis=1) + start
        yield found[first < second]


def joined(pairs: ClosePairs, others: np.ndarray) -> ClosePairs:
    """Returns the pairs and those of the `others` [M 2] that are not among them, sorted."""
    known = pairs.first.astype(np.int64) << 32 | pairs.second
    others = np.unique(others, axis=0)
    others = others[~np.isin(others[:, 0].astype(np.int64) << 32 | others[:, 1], known)]
    nothing = np.zeros(len(others), np.int32)
    columns = [
        np.concatenate([mine, theirs])
        for mine, theirs in (
            (pairs.first, others[:, 0]),
            (pairs.second, others[:, 1]),
            (pairs.distance, nothing + FARTHEST),
            (pairs.first_kind, nothing),
            (pairs.second_kind, nothing),
        )
    ]
    order = np.lexsort((columns[1], columns[0]))
    return ClosePairs(*(column[order] for column in columns))
