"""Which images repeat others."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from datasets_prep.duplicates.candidates import FARTHEST, Level, joined, neighbours
from datasets_prep.duplicates.search import (
    Known,
    SearchedImages,
    SearchOptions,
    exact_duplicates,
    keep_order,
    near_duplicates,
    pixel_duplicates,
)
from datasets_prep.duplicates.stage import with_compared
from datasets_prep.records import Duplicate
from finetune.similarity.agreement import can_verify
from finetune.similarity.codes import ClosePairs, image_codes
from tests.unit.similarity.test_agreement import texture


def near(*given: Any, **options: Any) -> dict[int, int]:
    """Return duplicate -> keeper, for the arguments of `near_in_full`."""
    return {number: found.keeper for number, found in near_in_full(*given, **options).items()}


def near_in_full(
    pictures: Sequence[Image.Image],
    level: Level = "fast",
    order: Sequence[int] | None = None,
    left: Sequence[int] | None = None,
    embeddings: np.ndarray | None = None,
    seen: dict[tuple[int, int], float] | None = None,
    whole: bool = False,
    links: list[tuple[int, int]] | None = None,
    kept: dict[tuple[int, str], bytes] | None = None,
) -> dict[int, Duplicate]:
    """Return the copies."""
    codes = np.stack([image_codes(image) for image in pictures])
    numbers = np.arange(len(pictures))
    mask = np.isin(numbers, numbers if left is None else left)
    load = pictures.__getitem__
    ranks = numbers if order is None else np.array(order)
    searched = SearchedImages(
        codes, ranks, mask, np.zeros(len(pictures), bool), load, load if whole else None, embeddings
    )
    options = SearchOptions(level, with_links=links is not None)
    known = Known({} if seen is None else seen, {} if kept is None else kept)
    found = near_duplicates(searched, options, known, lambda done, total: None)
    if links is not None:
        links += found.links
    return dict(found.duplicates)


def test_the_best_has_most_pixels_then_most_bytes_then_a_caption_then_the_smallest_path() -> None:
    rows = [(100, 50, False, "e"), (200, 10, False, "d"), (100, 60, False, "c"), (100, 50, True, "b")]
    rows += [(100, 50, False, "\udcff"), (100, 50, False, "a")]
    pixels, num_bytes, captioned, sources = zip(*rows, strict=True)
    order = keep_order(np.array(pixels), np.array(num_bytes), np.array(captioned), sources)
    assert order.tolist() == [1, 2, 3, 5, 0, 4]


def test_equal_bytes_are_copies_of_the_best() -> None:
    hashes = np.array([b"a" * 32, b"b" * 32, b"a" * 32, b"\0" * 32, b"a" * 32], dtype="V32")
    copies = exact_duplicates(hashes, np.array([2, 1, 0, 3, 4]))
    assert {number: copy.keeper for number, copy in copies.items()} == {0: 2, 4: 2}
    assert {copy.reason for copy in copies.values()} == {"exact_duplicate"}
    assert exact_duplicates(np.frombuffer(hashes.tobytes(), np.uint8).reshape(-1, 32), np.arange(5)).keys() == {2, 4}


def test_hashes_that_begin_alike_are_distinguished() -> None:
    hashes = np.array([b"a" * 31 + end for end in (b"1", b"2", b"2", b"1", b"3")], dtype="V32")
    copies = exact_duplicates(hashes, np.array([3, 2, 1, 0, 4]))
    assert {number: copy.keeper for number, copy in copies.items()} == {0: 3, 1: 2}


def test_the_order_needs_little_memory_and_agrees_with_sorting_by_all_keys() -> None:
    rng = np.random.default_rng(0)
    num = 500
    pixels, size, captioned = rng.integers(1, 4, num), rng.integers(1, 4, num), rng.random(num) > 0.5
    sources = [f"{number:03d}" for number in rng.permutation(num)]
    keys = [(-pixels[row], -size[row] / pixels[row], not captioned[row], sources[row]) for row in range(num)]
    wanted = sorted(range(num), key=keys.__getitem__)
    assert keep_order(pixels, size, captioned, sources).tolist() == wanted


def test_equal_thumbnails_are_copies_only_if_all_pixels_are_equal() -> None:
    one, other = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    pictures = [one, other, one.copy(), other.copy(), one.copy()]
    hashes = np.array([b"t" * 32] * 5, dtype="V32")
    left = np.array([True, True, True, True, False])
    copies = pixel_duplicates(hashes, np.array([4, 2, 1, 0, 3]), left, pictures.__getitem__)
    assert {number: copy.keeper for number, copy in copies.items()} == {0: 2, 3: 1}
    assert {copy.reason for copy in copies.values()} == {"pixel_duplicate"}


def test_edits_are_copies_of_the_best_image_and_others_stay() -> None:
    pictures = [texture(seed) for seed in range(5)]
    pictures += [
        pictures[1].resize((200, 160)),
        ImageOps.mirror(pictures[1]),
        ImageEnhance.Color(pictures[3]).enhance(0),
    ]
    assert near(pictures) == {5: 1, 6: 1, 7: 3}
    assert near(pictures, order=[7, 6, 5, 4, 3, 2, 1, 0]) == {1: 6, 3: 7, 5: 6}


def test_an_image_that_is_out_is_neither_copy_nor_keeper() -> None:
    pictures = [texture(0), texture(0).resize((300, 240)), texture(0).resize((200, 160))]
    assert near(pictures, left=[1, 2]) == {2: 1}


def agreeing(num: int, *pairs: tuple[int, int]) -> dict[tuple[int, int], float]:
    """Agreements as an earlier run found them."""
    return {pair: 0.9 if pair in pairs else 0.1 for pair in combinations(range(num), 2)}


def test_a_leftover_that_agrees_with_a_dropped_image_joins_its_group_and_brings_its_own() -> None:
    seen = agreeing(5, (0, 1), (1, 2), (2, 3))
    found = near_in_full([texture(0)] * 5, seen=seen)
    assert {number: (copy.keeper, copy.compared_with) for number, copy in found.items()} == {
        1: (0, None),
        2: (0, 1),
        3: (0, 2),
    }


def test_a_leftover_joins_by_one_step_and_not_by_two() -> None:
    # 2 joins 0 through 1; 4 agrees with 3 of 2's group and 5 with the leftover itself
    seen = agreeing(6, (0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    assert near([texture(0)] * 6, seen=seen) == {1: 0, 2: 0, 3: 0, 5: 4}


def test_a_leftover_is_compared_with_few_of_a_large_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_prep.duplicates.stars.MOST_TRIES", 2)
    seen = agreeing(5, (0, 1), (0, 2), (0, 3), (3, 4))
    assert near([texture(0)] * 5, seen=seen) == {1: 0, 2: 0, 3: 0}


def test_what_a_duplicate_was_compared_with_is_named_where_that_is_not_the_keeper() -> None:
    near = {1: Duplicate(0, "near_duplicate", 0.9, "one"), 2: Duplicate(0, "near_duplicate", 0.8, "two", 1)}
    near[3] = Duplicate(0, "near_duplicate", 0.7, "three", 2)

    def details(best: int) -> list[tuple[float, str]]:
        found = {number: replace(near.get(number, near[1]), keeper=best) for number in range(4) if number != best}
        return [(copy.score, copy.detail) for _, copy in sorted(with_compared(found, near, str).items())]

    assert details(0) == [(0.9, "one"), (0.8, "two, compared with 1"), (0.7, "three, compared with 2")]
    assert details(1) == [(0.9, "one"), (0.8, "two"), (0.7, "three, compared with 2")]
    assert details(2) == [(0.9, "one, compared with 1"), (0.9, "one, compared with 0"), (0.7, "three")]


def test_pairs_with_copies_are_linked_where_links_are_wanted() -> None:
    # 1 is a copy of 0 and shows what 2 shows; 3 is a copy of 0 and of 2; 4 is a copy of 2, 5 of 4 only
    seen = agreeing(6, (0, 1), (1, 2), (0, 3), (2, 3), (1, 3), (2, 4), (4, 5))
    links: list[tuple[int, int]] = []
    assert near([texture(0)] * 6, seen=seen, links=links) == {1: 0, 2: 0, 3: 0, 4: 0}
    assert links == [(1, 2), (2, 3), (4, 5)]
    assert near([texture(0)] * 6, seen=seen) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_what_is_not_looked_at_is_not_noted_as_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "datasets_prep.duplicates.appearances.is_worth_a_look", lambda is_simple, is_plain, distance: False
    )
    monkeypatch.setattr("datasets_prep.duplicates.candidates.FEW", 0)
    seen: dict[tuple[int, int], float] = {}
    assert near([texture(0), texture(0).resize((200, 160))], seen=seen) == {} and seen == {}


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    pictures = [texture(0), texture(0).resize((200, 160)), texture(1)]
    seen: dict[tuple[int, int], float] = {}
    kept: dict[tuple[int, str], bytes] = {}
    assert near(pictures, seen=seen, kept=kept) == {1: 0}
    assert {what for _, what in kept} == ({"nature", "corners"} if can_verify() else {"nature"})

    def load(number: int) -> Image.Image:
        raise AssertionError(f"{number} was loaded again")

    codes = np.stack([image_codes(image) for image in pictures])
    everything, nothing = np.ones(3, bool), np.zeros(3, bool)
    searched = SearchedImages(codes, np.arange(3), everything, nothing, load)
    again = near_duplicates(searched, SearchOptions(), Known(seen, kept), lambda *_: None)
    assert again.duplicates.keys() == {1}


def test_equal_pixels_of_different_files_are_named_so() -> None:
    pictures = [texture(0), texture(0), texture(0).resize((200, 160))]
    codes = np.stack([image_codes(image) for image in pictures])
    everything, nothing, load = np.ones(3, bool), np.zeros(3, bool), pictures.__getitem__
    searched = SearchedImages(codes, np.arange(3), everything, nothing, load, load_whole=load)
    copies = near_duplicates(searched, SearchOptions(), Known(), lambda *_: None).duplicates
    assert [copies[1].reason, copies[2].reason] == ["pixel_duplicate", "near_duplicate"]
    assert "bits differ" in copies[2].detail


def test_flat_images_are_not_taken_for_copies_by_their_codes() -> None:
    base = texture(0)
    pictures = [base, ImageOps.mirror(base)]
    codes = np.stack([image_codes(image) for image in pictures])
    for flat, found in ((False, {1}), (True, set())):
        searched = SearchedImages(codes, np.arange(2), np.ones(2, bool), np.full(2, flat), pictures.__getitem__)
        assert near_duplicates(searched, SearchOptions(), Known(), lambda *_: None).duplicates.keys() == found


@pytest.mark.skipif(not can_verify(), reason="needs opencv-python-headless")
def test_neighbours_of_embeddings_are_looked_at_and_only_copies_taken() -> None:
    pictures = [texture(0), texture(0).crop((80, 64, 400, 320)), texture(1)]
    embeddings = np.array([[1.0, 0], [1, 0.1], [1, 0]])
    assert near(pictures, "embed", embeddings=embeddings) == {1: 0}


def test_embed_without_embeddings_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="embed_model"):
        near([texture(0), texture(1)], "embed")


def test_neighbours_are_those_above_the_similarity_whatever_the_block() -> None:
    embeddings = np.random.default_rng(0).normal(size=(40, 3))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    wanted = {(a, b) for a in range(40) for b in range(a + 1, 40) if unit[a] @ unit[b] >= 0.6}
    for num in (7, 1024):
        found = [tuple(row) for block in neighbours(embeddings, 0.6, num) for row in block.tolist()]
        assert set(found) == wanted and len(found) == len(wanted)


def test_joined_pairs_keep_their_codes_and_say_which_have_more_in_common() -> None:
    first, second = np.array([0, 2], np.int32), np.array([3, 4], np.int32)
    pairs = ClosePairs(first, second, np.array([70, 8]), np.array([0, 1]), np.array([9, 0]))
    found, has_more = joined(pairs, np.array([[1, 2], [0, 3], [1, 2]]))
    rows = zip(found.first, found.second, found.distance, found.second_kind, has_more, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [(0, 3, 70, 9, 1), (1, 2, FARTHEST, 0, 1), (2, 4, 8, 0, 0)]


def test_no_images_have_no_copies() -> None:
    empty = np.zeros((0, 12, 4), np.uint64)
    nothing = np.zeros(0, bool)
    for level in ("fast", "thorough"):
        searched = SearchedImages(empty, np.arange(0), nothing, nothing, lambda _: texture(0))
        assert near_duplicates(searched, SearchOptions(level), Known(), lambda *_: None).duplicates == {}
