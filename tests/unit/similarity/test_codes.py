import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from finetune.similarity.codes import (
    CERTAIN_DISTANCE,
    KINDS,
    LARGEST_DISTANCE,
    MEETINGS,
    close_pairs,
    cosine_basis,
    image_codes,
    without_border,
)

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "photos"


def texture(seed: int, width: int = 200, height: int = 160) -> Image.Image:
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    return rough.resize((width, height), Image.Resampling.BICUBIC)


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.bitwise_count(first ^ second).sum(-1)


def test_the_basis_is_orthogonal() -> None:
    basis = cosine_basis(64, 64)[1:]
    assert np.allclose(basis @ basis.T, np.eye(63), atol=1e-12)


@pytest.mark.parametrize("transpose", list(Image.Transpose))
def test_a_turned_image_has_the_code_of_its_name(transpose: Image.Transpose) -> None:
    names = {
        Image.Transpose.FLIP_LEFT_RIGHT: "mirrored",
        Image.Transpose.FLIP_TOP_BOTTOM: "upside down",
        Image.Transpose.ROTATE_180: "turned by 180",
        Image.Transpose.TRANSPOSE: "transposed",
        Image.Transpose.ROTATE_90: "turned by 90",
        Image.Transpose.ROTATE_270: "turned by 270",
        Image.Transpose.TRANSVERSE: "transverse",
    }
    image = texture(0, 160, 160)
    turned = image_codes(image.transpose(transpose))[0]
    distances = distance(image_codes(image), turned)
    assert KINDS[int(distances[:8].argmin())] == names[transpose]
    assert distances[KINDS.index(names[transpose])] <= 4 and np.sort(distances[:8])[1] > 60


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((90, 72), Image.Resampling.BILINEAR),
        lambda image: image.filter(ImageFilter.GaussianBlur(2)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: ImageOps.grayscale(image).convert("RGB"),
        lambda image: ImageOps.expand(image, 30, "black"),
        lambda image: image.crop((10, 8, 190, 152)),
        ImageOps.mirror,
    ],
    ids=["smaller", "blurred", "darker", "grey", "framed", "cropped", "mirrored"],
)
def test_an_edited_copy_is_found_and_others_are_not(edit) -> None:
    pictures = [texture(seed) for seed in range(20)]
    codes = np.stack([image_codes(image) for image in [*pictures, edit(pictures[7])]])
    pairs = close_pairs(codes, CERTAIN_DISTANCE)
    assert [(int(a), int(b)) for a, b in zip(pairs.first, pairs.second, strict=True)] == [(7, 20)]


def test_a_flat_image_keeps_its_frame_and_a_framed_one_loses_it() -> None:
    flat = Image.new("L", (30, 20), 7)
    assert without_border(flat).size == (30, 20)
    inner = texture(1, 60, 40).convert("L")
    assert without_border(ImageOps.expand(inner, 9, 0)).size == (60, 40)


@pytest.mark.parametrize("all_compared", [0, 4096], ids=["by bands", "comparing all"])
def test_the_join_finds_what_was_planted(all_compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.similarity.codes.ALL_COMPARED", all_compared)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 64, (90, len(KINDS), 4), dtype=np.uint64)
    meetings = [(one, other) for first, second in MEETINGS for one in first for other in second]
    planted = {}
    for number, (one, other) in enumerate(meetings):  # a code of the second is one of the first with some bits flipped
        bits = np.zeros(256, np.uint8)
        bits[rng.permutation(256)[: number % CERTAIN_DISTANCE + 1]] = 1
        flips = np.packbits(bits, bitorder="little").view(np.uint64)
        codes[45 + number, other] = codes[number, one] ^ flips
        planted[number, 45 + number] = (number % CERTAIN_DISTANCE + 1, one, other)
    pairs = close_pairs(codes, CERTAIN_DISTANCE)
    rows = zip(pairs.first, pairs.second, pairs.distance, pairs.first_kind, pairs.second_kind, strict=True)
    found = {(int(a), int(b)): (int(d), int(first), int(second)) for a, b, d, first, second in rows}
    assert len(meetings) == 45 and found == planted


def test_codes_of_the_images_as_they_are_can_be_joined_alone() -> None:
    codes = np.random.default_rng(2).integers(0, 1 << 64, (50, 1, 4), dtype=np.uint64)
    codes[40] = codes[3]
    pairs = close_pairs(codes, CERTAIN_DISTANCE)
    assert [(int(pairs.first[row]), int(pairs.second[row])) for row in range(len(pairs))] == [(3, 40)]


def test_of_too_many_pairs_the_closest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(3).integers(0, 16, (40, 1, 4), dtype=np.uint64)  # unlike in 16 bits at most
    codes[:, 0, 1:] |= np.random.default_rng(4).integers(0, 1 << 24, (40, 3), dtype=np.uint64) << np.uint64(8)
    whole = close_pairs(codes)
    assert whole.largest == LARGEST_DISTANCE and len(whole) == 40 * 39 / 2
    monkeypatch.setattr("finetune.similarity.codes.FEWEST_KEPT", 300)
    monkeypatch.setattr("finetune.similarity.codes.PAIRS_PER_IMAGE", 1)
    few = close_pairs(codes)
    assert CERTAIN_DISTANCE <= few.largest < whole.distance.max() and 0 < len(few) <= 300
    assert np.array_equal(np.sort(whole.distance)[: len(few)], np.sort(few.distance))


def test_pairs_are_the_same_by_bands_and_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (24, len(KINDS), 4), dtype=np.uint64)
    whole = close_pairs(codes)
    monkeypatch.setattr("finetune.similarity.codes.ALL_COMPARED", 0)
    monkeypatch.setattr("finetune.similarity.codes.CANDIDATES_AT_ONCE", 50)
    monkeypatch.setattr("finetune.similarity.codes.ROWS_AT_ONCE", 1000)
    parts = close_pairs(codes)
    assert len(whole) == 24 * 23 / 2
    for name in ("first", "second", "distance", "first_kind", "second_kind"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_few_and_no_images_have_no_pairs() -> None:
    codes = image_codes(texture(0))[None]
    assert len(close_pairs(codes)) == len(close_pairs(codes[:0])) == 0


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    saved = io.BytesIO()
    image.save(saved, "JPEG", quality=quality)
    return Image.open(saved)


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/photos")
def test_no_two_photographs_are_taken_for_copies_but_saved_ones_are() -> None:
    paths = sorted(PHOTOS.glob("*/*.jpg"))
    thumbs = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    for thumb in thumbs:
        thumb.thumbnail((256, 256))
    saved = [through_jpeg(thumb, quality=30) for thumb in thumbs]
    codes = np.stack([image_codes(thumb) for thumb in [*thumbs, *saved]])
    pairs = close_pairs(codes, CERTAIN_DISTANCE)
    found = [(int(a), int(b)) for a, b in zip(pairs.first, pairs.second, strict=True)]
    num = len(thumbs)
    assert [(paths[a], paths[b % num]) for a, b in found if b % num != a % num] == []
    assert len(found) >= 0.95 * num  # the codes of two smooth ones change more; a second look finds those
