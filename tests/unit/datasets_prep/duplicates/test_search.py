from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from datasets_prep.duplicates.candidates import FARTHEST, joined, neighbours
from datasets_prep.duplicates.search import (
    Known,
    NearDuplicates,
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


def found_near(
    pictures: Sequence[Image.Image], options: SearchOptions | None = None, known: Known | None = None, **given: Any
) -> NearDuplicates:
    """Search all images. Unless given otherwise, the first is the best and none is flat."""
    num = len(pictures)
    codes = np.array([image_codes(image) for image in pictures], np.uint64).reshape(num, 12, 4)
    images = SearchedImages(codes, np.arange(num), np.ones(num, bool), np.zeros(num, bool), pictures.__getitem__)
    return near_duplicates(replace(images, **given), options or SearchOptions(), known or Known(), lambda *_: None)


def near(*given: Any, **options: Any) -> dict[int, int]:
    """Return duplicate -> keeper, for the arguments of `found_near`."""
    return {number: copy.keeper for number, copy in found_near(*given, **options).duplicates.items()}


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
    pictures += [pictures[1].resize((200, 160)), ImageOps.mirror(pictures[1])]
    pictures += [ImageEnhance.Color(pictures[3]).enhance(0)]
    assert near(pictures) == {5: 1, 6: 1, 7: 3}
    assert near(pictures, order=np.arange(8)[::-1]) == {1: 6, 3: 7, 5: 6}


def test_an_image_that_is_out_is_neither_copy_nor_keeper() -> None:
    pictures = [texture(0), texture(0).resize((300, 240)), texture(0).resize((200, 160))]
    assert near(pictures, mask=np.array([False, True, True])) == {2: 1}


def agreeing(num: int, *pairs: tuple[int, int]) -> Known:
    """Agreements as an earlier run found them."""
    return Known({pair: 0.9 if pair in pairs else 0.1 for pair in combinations(range(num), 2)})


def test_a_leftover_that_agrees_with_a_dropped_image_joins_its_group_and_brings_its_own() -> None:
    found = found_near([texture(0)] * 5, known=agreeing(5, (0, 1), (1, 2), (2, 3))).duplicates
    places = {number: (copy.keeper, copy.compared_with) for number, copy in found.items()}
    assert places == {1: (0, None), 2: (0, 1), 3: (0, 2)}


def test_a_leftover_joins_by_one_step_and_not_by_two() -> None:
    # 2 joins 0 through 1; 4 agrees with 3 of 2's group and 5 with the leftover itself
    known = agreeing(6, (0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    assert near([texture(0)] * 6, known=known) == {1: 0, 2: 0, 3: 0, 5: 4}


def test_a_leftover_is_compared_with_few_of_a_large_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_prep.duplicates.stars.MOST_TRIES", 2)
    assert near([texture(0)] * 5, known=agreeing(5, (0, 1), (0, 2), (0, 3), (3, 4))) == {1: 0, 2: 0, 3: 0}


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
    known = agreeing(6, (0, 1), (1, 2), (0, 3), (2, 3), (1, 3), (2, 4), (4, 5))
    found = found_near([texture(0)] * 6, SearchOptions(with_links=True), known)
    assert {number: copy.keeper for number, copy in found.duplicates.items()} == {1: 0, 2: 0, 3: 0, 4: 0}
    assert found.links == [(1, 2), (2, 3), (4, 5)]
    assert near([texture(0)] * 6, known=known) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_what_is_not_looked_at_is_not_noted_as_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_prep.duplicates.appearances.is_worth_a_look", lambda *_: False)
    monkeypatch.setattr("datasets_prep.duplicates.candidates.FEW", 0)
    known = Known()
    assert near([texture(0), texture(0).resize((200, 160))], known=known) == {} and known.scores == {}


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    pictures = [texture(0), texture(0).resize((200, 160)), texture(1)]
    kept: dict[tuple[int, str], bytes] = {}
    known = Known(appearances=kept)
    assert near(pictures, known=known) == {1: 0}
    assert {what for _, what in kept} == ({"nature", "corners"} if can_verify() else {"nature"})

    def load(number: int) -> Image.Image:
        raise AssertionError(f"{number} was loaded again")

    assert near(pictures, known=known, load=load) == {1: 0}


def test_equal_pixels_of_different_files_are_named_so() -> None:
    pictures = [texture(0), texture(0), texture(0).resize((200, 160))]
    copies = found_near(pictures, load_whole=pictures.__getitem__).duplicates
    assert [copies[1].reason, copies[2].reason] == ["pixel_duplicate", "near_duplicate"]
    assert "bits differ" in copies[2].detail


def test_flat_images_are_not_taken_for_copies_by_their_codes() -> None:
    pictures = [texture(0), ImageOps.mirror(texture(0))]
    assert near(pictures) == {1: 0} and near(pictures, flat=np.ones(2, bool)) == {}


@pytest.mark.skipif(not can_verify(), reason="needs opencv-python-headless")
def test_neighbours_of_embeddings_are_looked_at_and_only_copies_taken() -> None:
    pictures = [texture(0), texture(0).crop((80, 64, 400, 320)), texture(1)]
    embeddings = np.array([[1.0, 0], [1, 0.1], [1, 0]])
    assert near(pictures, SearchOptions("embed"), embeddings=embeddings) == {1: 0}


def test_embed_without_embeddings_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="embed_model"):
        near([texture(0), texture(1)], SearchOptions("embed"))


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
    assert near([]) == near([], SearchOptions("thorough")) == {}
