"""Find duplicates among the images, and reject or only report them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol

import numpy as np
import PIL

from datasets_prep.caches.content import ContentCache
from datasets_prep.caches.lines import JsonLines
from datasets_prep.config import DedupConfig
from datasets_prep.context import Context
from datasets_prep.duplicates.appearances import KeptBytes, Key, Value
from datasets_prep.duplicates.embeddings import Embedder, cached_embeddings
from datasets_prep.duplicates.facts import Details
from datasets_prep.duplicates.keeper import Member, with_best_keepers
from datasets_prep.duplicates.search import (
    Known,
    SearchedImages,
    SearchOptions,
    exact_duplicates,
    keep_order,
    near_duplicates,
    pixel_duplicates,
)
from datasets_prep.duplicates.stars import PairScores
from datasets_prep.measure.loader import Loader
from datasets_prep.records import Duplicate
from datasets_prep.selection import Selection
from finetune.data.listing import Findings
from finetune.extras import install_command
from finetune.similarity.agreement import VERSION, can_verify

SMALL_SET = 200
"""Below this number of images near duplicates are only reported: in small sets crops are often deliberate."""
FLAT_DEVIATION = 20.0
"""Levels; the codes of images that deviate less say little."""


def check_dedup(config: DedupConfig, findings: Findings) -> str:
    """Return what the search depends on; check that OpenCV is installed."""
    identity = f"{VERSION} {can_verify()}"
    if config.embed_model is not None:
        identity += Embedder(config.embed_model).identity()
    if config.level == "off" or can_verify():
        return identity
    if config.level != "fast":
        raise ValueError(
            f"dedup.level: {config.level} compares images with OpenCV, which is not installed. "
            f"Run: {install_command('dedup')}, or set dedup.level to fast."
        )
    findings.warn("near duplicates are found by codes alone, for OpenCV is missing", install_command("dedup"))
    return identity


def ordered(selection: Selection, has_caption: np.ndarray) -> np.ndarray:
    """Order the numbers of all images, the best first."""
    images = selection.images
    num_pixels = images.width.astype(np.int64) * images.height
    return keep_order(num_pixels, images.num_bytes, has_caption, images.sources)


def reject_equal(context: Context, has_caption: np.ndarray) -> None:
    """Reject images with the same bytes or pixels as another."""
    selection = context.selection
    images, order = selection.images, ordered(selection, has_caption)
    exact = exact_duplicates(images.sha256, order[selection.is_in[order]])
    selection.reject_duplicates("exact duplicates", exact, "with the same bytes as another")
    same = pixel_duplicates(images.pixels_sha256, order, selection.is_in, context.loader.whole)
    selection.reject_duplicates("pixel duplicates", same, "with the same pixels as another")


def reject_near_duplicates(context: Context, has_caption: np.ndarray) -> None:
    """Reject near duplicates, or only report them. For a split, duplicates of those that stay are linked too."""
    selection, config, findings = context.selection, context.config.dedup, context.findings
    if config.level == "off":
        return
    drops = config.near == "drop" or (config.near == "auto" and int(selection.is_in.sum()) >= SMALL_SET)
    with_links = context.config.split.share > 0 and not drops
    options = SearchOptions(config.level, config.embed_similarity, with_links)
    near, links = found_near_duplicates(context, has_caption, options)
    pixel_equal = {index: duplicate for index, duplicate in near.items() if duplicate.reason == "pixel_duplicate"}
    near = {index: duplicate for index, duplicate in near.items() if index not in pixel_equal}
    if pixel_equal:
        said = "more with the same pixels, in another file format"
        selection.reject_duplicates("pixel duplicates", pixel_equal, said)
    selection.links += links
    if drops:
        selection.reject_duplicates("near duplicates", near, "like another")
        return
    selection.note_duplicates("near duplicates", near, "like another, kept")
    why = f"fewer than {SMALL_SET} images" if config.near == "auto" else "dedup.near is report"
    kind, sources = f"near duplicates that are kept ({why}; dedup.near drop leaves them out)", selection.images.sources
    for index in sorted(near):
        findings.warn(kind, f"{sources[index]} of {sources[near[index].keeper]}")


def found_near_duplicates(
    context: Context, has_caption: np.ndarray, options: SearchOptions
) -> tuple[dict[int, Duplicate], Sequence[tuple[int, int]]]:
    """Find near duplicates, and the links that a split needs. Each repeats the best image of its group."""
    selection, version = context.selection, f"{VERSION} {can_verify()}"

    def content(number: int) -> str:
        return selection.images.seen(number).hex()[:32]

    scores = JsonLines(context.own / "pairs.jsonl", context.findings)
    results = ContentCache(context.own / "appearances.sqlite", context.findings)
    seen: PairScores = ByContent(scores, lambda pair: f"{content(pair[0])} {content(pair[1])} {version}")
    kept: KeptBytes = ByContent(results, lambda key: f"{content(key[0])} {key[1]} {version} {PIL.__version__}")
    codes = selection.images.codes(context.own)
    try:
        found = near_duplicates(
            SearchedImages(
                codes,
                ordered(selection, has_caption),
                selection.is_in,
                selection.images.score("deviation") < FLAT_DEVIATION,
                context.loader.small,
                context.loader.whole,
                embeddings_of(context),
            ),
            options,
            Known(seen, kept),
            lambda done, total: context.progress("near duplicates", done, total),
        )
        if found.notice is not None:
            context.findings.warn("near duplicates that may be missed", found.notice)
        return best_kept(found.duplicates, selection, has_caption, context.loader, kept), found.links
    finally:
        for opened in (scores, results, codes):
            opened.close()


def best_kept(
    near: Mapping[int, Duplicate], selection: Selection, has_caption: np.ndarray, loader: Loader, kept: KeptBytes
) -> dict[int, Duplicate]:
    """Point near duplicates to the best image of their group. Duplicates with equal pixels are not changed."""
    images, ranks = selection.images, {int(number): rank for rank, number in enumerate(ordered(selection, has_caption))}
    quality, name = images.score("jpeg_quality"), images.sources.__getitem__
    equal = {index: duplicate for index, duplicate in near.items() if duplicate.reason == "pixel_duplicate"}
    found = with_best_keepers(
        {index: duplicate for index, duplicate in near.items() if index not in equal},
        lambda number: Member(number, ranks[number], float(quality[number]), bool(has_caption[number])),
        lambda number: bool(selection.protected[number]),
        Details(loader.whole, kept),
        name,
    )
    return with_compared(found, near, name) | equal


def with_compared(
    found: Mapping[int, Duplicate], near: Mapping[int, Duplicate], name: Callable[[int], str]
) -> dict[int, Duplicate]:
    """Name the compared image in details where it is not the keeper. `near` has the groups as first found."""
    result: dict[int, Duplicate] = {}
    for number, duplicate in found.items():
        # the first of a group was compared with its best image, or with the one through which that joined
        other = duplicate.keeper if number not in near else number
        through = near[other].compared_with
        if number not in near and through is not None:
            other = through
        compared = near[other].keeper if through is None else through
        pair, detail = near[other], near[other].detail
        if compared != duplicate.keeper and (number in near or through is not None):
            detail += f", compared with {name(compared)}"
        result[number] = replace(duplicate, score=pair.score, detail=detail)
    return result


def embeddings_of(context: Context) -> np.ndarray | None:
    """Embed the images [N D] at level embed, else return None. Rejected images have zeros."""
    selection, config = context.selection, context.config.dedup
    if config.level != "embed":
        return None
    assert config.embed_model is not None
    inside = np.flatnonzero(selection.is_in)
    keys, indices = [selection.images.seen(int(index)) for index in inside], [int(index) for index in inside]
    found = cached_embeddings(config.embed_model, keys, indices, context.loader.small, context.own, context.progress)
    result = np.zeros((len(selection.images), found.shape[1]), np.float32)
    result[inside] = found
    return result


class Cache(Protocol[Value]):
    """A cache on disk."""

    def get(self, key: str) -> Value | None: ...
    def put(self, key: str, value: Value) -> None: ...


class ByContent(Generic[Key, Value]):
    """A cache on disk by the contents of images. `key` makes its keys from their numbers."""

    def __init__(self, cache: Cache[Value], key: Callable[[Key], str]) -> None:
        self._cache, self._key = cache, key

    def get(self, key: Key, /) -> Value | None:
        return self._cache.get(self._key(key))

    def __setitem__(self, key: Key, value: Value, /) -> None:
        self._cache.put(self._key(key), value)
