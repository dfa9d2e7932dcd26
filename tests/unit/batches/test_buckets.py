import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from finetune.batches.buckets import (
    Bucket,
    BucketBatchSampler,
    Sample,
    assign_buckets,
    bucket_figures,
    refuse_longer_sides,
)
from finetune.config.sections import DataConfig
from finetune.data.images.decode import cover_scale
from finetune.data.manifest import Manifest, Record
from finetune.data.sizes import bucket_sizes, without_upscaling
from finetune.data.visible_files import FolderSource


def record(width: int, height: int, number: int = 0, repeats: int = 1) -> Record:
    return Record(f"{number}.png", ("a",), width, height, f"{number:064x}", repeats=repeats)


@pytest.mark.parametrize(
    ("resolution", "step", "max_aspect"),
    [(512, 64, 2), (768, 64, 2), (1024, 64, 2), (1024, 64, 4), (512, 8, 1.5), (64, 16, 2), (576, 64, 3)],
)
def test_sizes_are_the_largest_of_each_aspect_and_the_same_upright_and_lying(
    resolution: int, step: int, max_aspect: float
) -> None:
    sizes = bucket_sizes(resolution, step, max_aspect)
    assert (resolution, resolution) in sizes
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2 and max(width / height, height / width) <= max_aspect
        for w, h in ((width + step, height), (width, height + step)):  # no side could grow
            assert w * h > resolution**2 or max(w / h, h / w) > max_aspect
    for (width, height), other in itertools.permutations(sizes, 2):
        assert not (width <= other[0] and height <= other[1])
    assert sizes == sorted(sizes, key=lambda size: size[0] / size[1])
    assert sorted(sizes) == sorted((height, width) for width, height in sizes)


def test_an_aspect_bound_of_one_leaves_the_square() -> None:
    assert bucket_sizes(512, 64, 1.0) == [(512, 512)]


def test_the_bound_itself_is_reached_where_a_size_meets_it_exactly() -> None:
    assert {(704, 1408), (1408, 704)} <= {*bucket_sizes(1024, 64, 2.0)}
    assert (600, 660) in bucket_sizes(630, 60, 1.1)  # 600 x 1.1 is 660.0000000000001 in floating point


def test_each_image_is_in_the_bucket_of_the_nearest_aspect_ratio_and_in_no_other() -> None:
    sizes = [(1000, 1000), (1000, 990), (640, 384), (384, 640), (10_000, 100), (100, 10_000), (1, 1)]
    records = [record(*size, number) for number, size in enumerate(sizes)]
    buckets = assign_buckets(records, DataConfig("x", resolution=512, bucket_step=64))
    placed = {index: (bucket.width, bucket.height) for bucket in buckets for index in bucket.records}
    assert sum(len(bucket.records) for bucket in buckets) == len(records)
    square, lying, upright = (512, 512), (640, 384), (384, 640)
    assert [placed[index] for index in range(len(records))] == [square] * 2 + [lying, upright] * 2 + [square]


def test_the_figures_say_what_is_cut_and_what_is_enlarged() -> None:
    records = [record(100, 100, 0), record(200, 100, 1), record(50, 50, 2)]
    figures = bucket_figures(Bucket(100, 100, (0, 1, 2)), records)
    assert (figures.width, figures.height, figures.num_pictures, figures.num_upscaled) == (100, 100, 3, 1)
    assert figures.crop_loss_mean == pytest.approx(0.5 / 3)


def test_a_bucket_keeps_the_chosen_records() -> None:
    assert Bucket(64, 64, (3, 5, 7)).only({5, 9}).records == (5,)


def buckets_of(sizes: Sequence[int]) -> list[Bucket]:
    ends = list(itertools.accumulate(sizes, initial=0))
    return [Bucket(64, 64 + n, tuple(range(ends[n], ends[n + 1]))) for n in range(len(sizes))]


def sampler_of(sizes: Sequence[int], batch_size: int, *, seed: int = 0, start: int = 0) -> BucketBatchSampler:
    return BucketBatchSampler(buckets_of(sizes), [1] * sum(sizes), batch_size, seed=seed, start=start)


def taken(sampler: BucketBatchSampler, num: int) -> list[list[Sample]]:
    return list(itertools.islice(sampler, num))


def order(sampler: BucketBatchSampler, num: int) -> list[int]:
    return [index for batch in taken(sampler, num) for index, _ in batch]


def drawn_cases() -> list[tuple[list[int], int]]:
    draw = random.Random(7)
    cases: list[tuple[list[int], int]] = [([1], 4), ([5], 4), ([1, 1], 8), ([4, 5, 30], 4), ([1, 40], 4), ([7] * 9, 4)]
    for _ in range(30):
        batch_size = draw.choice([1, 2, 4, 8])
        choices = [1, 2, 3, batch_size, batch_size + 1, 2 * batch_size - 1, 20, 50]
        cases.append(([draw.choice(choices) for _ in range(draw.randrange(1, 12))], batch_size))
    return cases


CASES = drawn_cases()


@pytest.mark.parametrize(("sizes", "batch_size"), CASES)
def test_after_every_batch_the_promises_hold(sizes: list[int], batch_size: int) -> None:
    buckets = buckets_of(sizes)
    bucket_of = {index: number for number, bucket in enumerate(buckets) for index in bucket.records}
    seen = Counter(dict.fromkeys(range(sum(sizes)), 0))
    served = [0] * len(sizes)
    num_steps = 4 * (sum(sizes) // batch_size + len(sizes))
    all_seen_by = (sum(sizes) + len(sizes) * batch_size) / batch_size
    for step, batch in enumerate(taken(sampler_of(sizes, batch_size), num_steps)):
        assert len(batch) == batch_size
        assert [position for _, position in batch] == list(range(step * batch_size, (step + 1) * batch_size))
        (number,) = {bucket_of[index] for index, _ in batch}
        seen.update(index for index, _ in batch)
        served[number] += batch_size
        # Within a bucket, never more than one pass apart.
        counts = [seen[index] for index in buckets[number].records]
        assert max(counts) - min(counts) <= 1
        # Over buckets, between the least and one batch above it.
        passes = [count / size for count, size in zip(served, sizes, strict=True)]
        for count, size in zip(passes, sizes, strict=True):
            assert count <= min(passes) + batch_size / size + 1e-9
        large = [count for count, size in zip(passes, sizes, strict=True) if size >= batch_size]
        assert not large or max(large) - min(large) <= 1 + 1e-9
        # None is left out for long.
        if step + 1 >= all_seen_by:
            assert min(seen.values()) >= 1


@pytest.mark.parametrize(("sizes", "batch_size"), CASES[:12])
def test_over_many_passes_every_image_has_an_equal_share(sizes: list[int], batch_size: int) -> None:
    num_passes = 200
    seen = Counter(order(sampler_of(sizes, batch_size), num_passes * sum(sizes) // batch_size))
    surplus = len(sizes) * batch_size / sum(sizes)  # what buckets above the least may have taken from the others
    for index in range(sum(sizes)):
        assert num_passes - surplus - 1 <= seen[index] <= num_passes + batch_size + 1


@pytest.mark.parametrize("start", [1, 2, 7, 40])
def test_starting_later_skips_what_came_before(start: int) -> None:
    sizes, batch_size = [3, 9, 20], 4
    later = taken(sampler_of(sizes, batch_size, start=start), 20)
    assert later == taken(sampler_of(sizes, batch_size), start + 20)[start:]


def test_iterating_again_begins_again() -> None:
    sampler = sampler_of([3, 9], 4)
    assert taken(sampler, 9) == taken(sampler, 9)


def test_an_image_that_repeats_is_that_often_in_each_pass() -> None:
    sampler = BucketBatchSampler(buckets_of([3, 2]), [1, 3, 1, 2, 1], 4, seed=0)
    seen = Counter(order(sampler, 2 * 40))  # 8 entries per pass
    assert [seen[index] / 40 for index in range(5)] == pytest.approx([1, 3, 1, 2, 1], abs=0.1)


def test_the_order_differs_between_seeds_buckets_and_passes() -> None:
    first = order(sampler_of([32], 32), 3)
    assert sorted(first[:32]) == sorted(first[32:64]) == list(range(32))
    assert first[:32] != first[32:64] != first[64:]
    assert first != order(sampler_of([32], 32, seed=1), 3)
    both = order(sampler_of([32, 32], 32), 2)
    assert [index - 32 for index in both[32:]] != both[:32]


def test_the_position_in_the_stream_does_not_depend_on_the_batch_size() -> None:
    assert order(sampler_of([10], 2), 10) == order(sampler_of([10], 4), 5)


def test_a_side_may_be_as_long_as_the_denoisers_positions_and_no_longer() -> None:
    sizes = [(64, 64), (48, 80)]
    refuse_longer_sides(sizes, None)
    refuse_longer_sides(sizes, 80)
    with pytest.raises(ValueError, match=r"data\.resolution.* 48x80"):
        refuse_longer_sides(sizes, 79)


def test_without_upscaling_images_fill_the_largest_bucket_that_they_can() -> None:
    draw = random.Random(0)
    sides = [(draw.randint(64, 900), draw.randint(64, 900)) for _ in range(300)] + [(640, 384), (512, 512), (64, 64)]
    records = tuple(record(*size, number) for number, size in enumerate(sides))
    config = DataConfig("images", resolution=512, upscale=False)
    manifest = without_upscaling(Manifest(records, FolderSource("images"), "images"), config)
    before = {index: bucket for bucket in assign_buckets(records, config) for index in bucket.records}
    for bucket in assign_buckets(manifest.records, config):
        for index in bucket.records:
            image, usual = records[index], before[index]
            assert cover_scale(image.width, image.height, bucket.width, bucket.height) <= 1
            if cover_scale(image.width, image.height, usual.width, usual.height) <= 1:
                assert manifest.records[index] == image
            else:
                assert bucket.width * bucket.height < usual.width * usual.height
    assert [each.resolution for each in manifest.records[-3:]] == [None, None, 64]
    with pytest.raises(ValueError, match=r"1 image cannot fill .*0\.png \(63x500\)"):
        without_upscaling(Manifest((record(63, 500),), FolderSource("images"), "images"), config)
