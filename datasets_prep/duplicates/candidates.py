"""Candidate pairs: close codes, common corners or close embeddings.

Letters: N images, M pairs, D width of an embedding. Images are named by their ranks, the best first.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from finetune.similarity.agreement import can_verify
from finetune.similarity.codes import LARGEST_DISTANCE, ClosePairs, Codes, close_pairs
from finetune.similarity.corners import Descriptors, voted_pairs

Level = Literal["fast", "thorough", "embed"]
EMBEDDED_SIMILARITY = 0.6
FARTHEST = 256
"""Bits; the distance of pairs that were not found by codes."""
FEW = 2048
"""Up to this number of images level fast also searches for common corners, which takes a minute or two."""
MANY, MANY_DISTANCE = 20_000, 76
"""In larger sets only pairs up to this number of bits are compared.

Among a million images, unrelated codes come that close about 4,000 times, but ten million times up to LARGEST_DISTANCE,
and each comparison takes a hundredth of a second.
"""


def candidates(
    codes: Codes,
    ranked: np.ndarray,
    descriptors: Iterable[Descriptors | None],
    level: Level,
    embeddings: np.ndarray | None,
    similarity: float,
) -> tuple[ClosePairs, np.ndarray]:
    """List candidate pairs, sorted, and which [M] share more than codes."""
    num = len(ranked)
    pairs = close_pairs(codes, farthest(num), ranked)
    others = np.zeros((0, 2), np.int64)
    if level == "embed":
        if embeddings is None:
            raise ValueError("dedup.level: got embed without embeddings. Set dedup.embed_model to a vision model.")
        others = np.concatenate([others, *neighbours(embeddings[ranked], similarity)])
    elif can_verify() and (level == "thorough" or num <= FEW):
        others = voted_pairs(descriptors)
    return joined(pairs, others)


def farthest(num: int) -> int:
    """The largest distance in bits to search among so many images."""
    return LARGEST_DISTANCE if num <= MANY else MANY_DISTANCE


def neighbours(embeddings: np.ndarray, similarity: float, num_at_once: int = 1024) -> Iterator[np.ndarray]:
    """Yield pairs [M 2] of embeddings [N D] with a cosine of `similarity` or more. The smaller number comes first."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    for start in range(0, len(unit), num_at_once):
        first, second = np.nonzero(unit[start : start + num_at_once] @ unit[start:].T >= similarity)
        found = np.stack([first, second], axis=1) + start
        yield found[first < second]


def joined(pairs: ClosePairs, others: np.ndarray) -> tuple[ClosePairs, np.ndarray]:
    """Join pairs with `others` [M 2], and mark those among the others."""
    known = pairs.first.astype(np.int64) << 32 | pairs.second
    wanted = np.unique(others[:, 0].astype(np.int64) << 32 | others[:, 1])
    more = wanted[~np.isin(wanted, known)]
    nothing = np.zeros(len(more), np.int32)
    keys = np.concatenate([known, more])
    order = np.argsort(keys, kind="stable")
    columns = (
        (pairs.first, (more >> 32).astype(np.int32)),
        (pairs.second, (more & 0xFFFFFFFF).astype(np.int32)),
        (pairs.distance, nothing + FARTHEST),
        (pairs.first_kind, nothing),
        (pairs.second_kind, nothing),
    )
    return ClosePairs(*(np.concatenate(column)[order] for column in columns), largest=pairs.largest), np.isin(
        keys[order], wanted
    )
