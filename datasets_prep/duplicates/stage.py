"""Finds the copies among the pictures, and leaves them out or only names them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL

from datasets_prep.caches.content import ContentCache
from datasets_prep.caches.lines import JsonLines
from datasets_prep.config import DedupConfig
from datasets_prep.duplicates.appearances import KeptBytes
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
from datasets_prep.measure.gather import Progress
from datasets_prep.measure.loader import Loader
from datasets_prep.records import Duplicate
from datasets_prep.selection import Selection
from finetune.data.listing import Findings
from finetune.extras import install_command
from finetune.similarity.agreement import VERSION, can_verify

SMALL_SET = 200
"""Below that many pictures near duplicates are only reported: who has ten photographs crops them on purpose."""
FLAT_DEVIATION = 20.0
"""Levels; pictures that deviate less have codes that say little."""


def check_dedup(config: DedupConfig, findings: Findings) -> str:
    """Returns what the search depends on; notes where the second look is missing, refuses levels that need it."""
    identity = f"{VERSION} {can_verify()}"
    if config.embed_model is not None:
        from datasets_prep.duplicates.embeddings import Embedder

        identity += Embedder(config.embed_model).identity()
    if config.level == "off" or can_verify():
        return identity
    if config.level != "fast":
        raise ValueError(
            f"dedup.level: {config.level} compares pictures with OpenCV, which is not installed. "
            f"Run: {install_command('dedup')}, or set dedup.level to fast."
        )
    findings.warn("near duplicates are found by codes alone, for OpenCV is missing", install_command("dedup"))
    return identity


def ordered(selection: Selection, has_caption: np.ndarray) -> np.ndarray:
    """Returns the numbers of all pictures, the best first."""
    images = selection.images
    num_pixels = images.width.astype(np.int64) * images.height
    return keep_order(num_pixels, images.num_bytes, has_caption, images.sources)


def reject_equal(selection: Selection, has_caption: np.ndarray, loader: Loader) -> None:
    """Leaves out what has the same bytes or pixels as another."""
    images, order = selection.images, ordered(selection, has_caption)
    exact = exact_duplicates(images.sha256, order[selection.is_in[order]])
    selection.reject_duplicates("exact duplicates", exact, "with the same bytes as another")
    same = pixel_duplicates(images.pixels_sha256, order, selection.is_in, loader.whole)
    selection.reject_duplicates("pixel duplicates", same, "with the same pixels as another")


def reject_near_duplicates(
    selection: Selection,
    config: DedupConfig,
    has_caption: np.ndarray,
    has_split: bool,
    own: Path,
    loader: Loader,
    findings: Findings,
    progress: Progress,
) -> None:
    """Leaves near duplicates out, or only names them, as the options say.

    Where these stay and the pictures are to be split, copies of copies are linked too.
    """
    if config.level == "off":
        return
    images = selection.images
    drops = config.near == "drop" or (config.near == "auto" and int(selection.is_in.sum()) >= SMALL_SET)
    seen = PairScores(own / "pairs.jsonl", selection, findings)
    kept = KeptAppearances(own / "appearances.sqlite", selection, findings)
    codes = images.codes(own)
    try:
        found = near_duplicates(
            SearchedImages(
                codes,
                ordered(selection, has_caption),
                selection.is_in,
                images.score("deviation") < FLAT_DEVIATION,
                loader.small,
                loader.whole,
                embeddings_of(selection, config, own, loader, progress),
            ),
            SearchOptions(config.level, config.embed_similarity, with_links=has_split and not drops),
            Known(seen, kept),
            lambda done, total: progress("near duplicates", done, total),
        )
        if found.notice is not None:
            findings.warn("near duplicates that may be missed", found.notice)
        near = found.duplicates
        near = best_kept(near, selection, has_caption, loader, kept)
    finally:
        seen.close()
        kept.close()
        codes.close()
    pixel_equal = {index: duplicate for index, duplicate in near.items() if duplicate.reason == "pixel_duplicate"}
    near = {index: duplicate for index, duplicate in near.items() if index not in pixel_equal}
    if pixel_equal:
        selection.reject_duplicates(
            "pixel duplicates", pixel_equal, "more with the same pixels, in another file format"
        )
    selection.links += found.links
    if drops:
        selection.reject_duplicates("near duplicates", near, "like another")
        return
    selection.note_duplicates("near duplicates", near, "like another, kept")
    why = f"fewer than {SMALL_SET} pictures" if config.near == "auto" else "dedup.near is report"
    for index in sorted(near):
        findings.warn(
            f"near duplicates that are kept ({why}; dedup.near drop leaves them out)", pair(selection, index, near)
        )


def best_kept(
    near: Mapping[int, Duplicate], selection: Selection, has_caption: np.ndarray, loader: Loader, kept: KeptBytes
) -> dict[int, Duplicate]:
    """Returns the near-duplicates as repeats of the best image of their group; those of equal pixels stay."""
    images, ranks = selection.images, {int(number): rank for rank, number in enumerate(ordered(selection, has_caption))}
    quality = images.score("jpeg_quality")
    equal = {index: duplicate for index, duplicate in near.items() if duplicate.reason == "pixel_duplicate"}
    found = with_best_keepers(
        {index: duplicate for index, duplicate in near.items() if index not in equal},
        lambda number: Member(number, ranks[number], float(quality[number]), bool(has_caption[number])),
        lambda number: bool(selection.protected[number]),
        Details(loader.whole, kept),
        lambda number: str(images.sources[number]),
    )
    return with_compared(found, near, lambda number: str(images.sources[number])) | equal


def with_compared(
    found: Mapping[int, Duplicate], near: Mapping[int, Duplicate], name: Callable[[int], str]
) -> dict[int, Duplicate]:
    """Return duplicates whose detail names the image it was compared with, where that is not the keeper.

    `near` has the groups before their best images were chosen.
    """
    result: dict[int, Duplicate] = {}
    for number, duplicate in found.items():
        other = (
            duplicate.keeper if number not in near else number
        )  # the first of a group was compared with its best image,
        through = near[other].compared_with
        if number not in near and through is not None:  # or with the one through which that joined
            other = through
        compared = near[other].keeper if through is None else through
        pair, detail = near[other], near[other].detail
        if compared != duplicate.keeper and (number in near or through is not None):
            detail += f", compared with {name(compared)}"
        result[number] = replace(duplicate, score=pair.score, detail=detail)
    return result


def pair(selection: Selection, index: int, duplicates: Mapping[int, Duplicate]) -> str:
    """Returns both names of a pair."""
    return f"{selection.images.sources[index]} of {selection.images.sources[duplicates[index].keeper]}"


def embeddings_of(
    selection: Selection, config: DedupConfig, own: Path, loader: Loader, progress: Progress
) -> np.ndarray | None:
    """Returns what the vision model makes of the pictures [N D], zeros where one is out; None at other levels."""
    if config.level != "embed":
        return None
    from datasets_prep.duplicates.embeddings import cached_embeddings

    assert config.embed_model is not None
    inside = np.flatnonzero(selection.is_in)
    keys = [selection.images.seen(int(index)) for index in inside]
    found = cached_embeddings(config.embed_model, keys, [int(index) for index in inside], loader.small, own, progress)
    result = np.zeros((len(selection.images), found.shape[1]), np.float32)
    result[inside] = found
    return result


class KeptAppearances:
    """What is slow to find of an image, kept by its content, across runs."""

    def __init__(self, path: Path, selection: Selection, findings: Findings) -> None:
        self._cache = ContentCache(path, findings)
        self._seen = selection.images.seen
        self._suffix = f"{VERSION} {can_verify()} {PIL.__version__}"

    def get(self, number: int, what: str) -> bytes | None:
        """Returns the bytes, None where there are none."""
        return self._cache.get(self._key(number, what))

    def put(self, number: int, what: str, value: bytes) -> None:
        """Keeps them."""
        self._cache.put(self._key(number, what), value)

    def close(self) -> None:
        """Closes the file."""
        self._cache.close()

    def _key(self, number: int, what: str) -> str:
        return f"{self._seen(number).hex()[:32]} {what} {self._suffix}"


class PairScores:
    """How well pairs of pictures agreed when they were looked at, kept by what the pictures hold."""

    def __init__(self, path: Path, selection: Selection, findings: Findings) -> None:
        self._lines = JsonLines(path, findings)
        self._seen = selection.images.seen
        self._suffix = f"{VERSION} {can_verify()}"

    def get(self, first: int, second: int) -> float | None:
        """Returns the score of a pair, None where it was not looked at."""
        value = self._lines.get(self._key(first, second))
        return None if value is None else float(value)

    def put(self, first: int, second: int, score: float) -> None:
        """Keeps the score of a pair."""
        self._lines.put(self._key(first, second), score)

    def close(self) -> None:
        """Lets go of the file."""
        self._lines.close()

    def _key(self, first: int, second: int) -> str:
        return f"{self._seen(first).hex()[:32]} {self._seen(second).hex()[:32]} {self._suffix}"
