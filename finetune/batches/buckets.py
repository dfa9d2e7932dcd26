"""Aspect-ratio buckets, and full global batches of one bucket each. A global batch is what one optimizer step sees:
batch size x accumulation x processes. Because it has one size, every process has the same shapes; because it is a
function of (seed, step), a run can be resumed at any step and split over any number of processes."""

import itertools
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from finetune.config.sections import DataConfig
from finetune.data.images.decode import cover_scale, crop_loss
from finetune.data.manifest import Record
from finetune.data.sizes import bucket_sizes, nearest_size
from finetune.randomness import generator

Sample = tuple[int, int]
"""(index of the record, position in the sample stream)."""


@dataclass(frozen=True)
class Bucket:
    """One size of images and the records trained at it."""

    width: int
    height: int
    records: tuple[int, ...]

    def only(self, chosen: Container[int]) -> "Bucket":
        """Keep the chosen records."""
        return replace(self, records=tuple(index for index in self.records if index in chosen))


def assign_buckets(records: Sequence[Record], config: DataConfig) -> list[Bucket]:
    """Put each image into the bucket with the nearest aspect ratio. Empty buckets are omitted."""
    sizes = sizes_by_resolution(records, config)
    held: dict[tuple[int, int], list[int]] = {size: [] for each in sizes.values() for size in each}
    for index, record in enumerate(records):
        held[nearest_size(record.width, record.height, sizes[record.resolution])].append(index)
    return [Bucket(width, height, tuple(indices)) for (width, height), indices in held.items() if indices]


def sizes_by_resolution(records: Sequence[Record], config: DataConfig) -> dict[int | None, list[tuple[int, int]]]:
    """Return the sizes of buckets at each resolution of the records. That of the run, None, comes first."""
    sides = dict.fromkeys((None, *(record.resolution for record in records)))
    return {side: bucket_sizes(side or config.resolution, config.bucket_step, config.max_aspect) for side in sides}


def refuse_longer_sides(sizes: Sequence[tuple[int, int]], longest: int | None) -> None:
    """Refuse images with a longer side than the denoiser has positions for."""
    for width, height in sizes:
        if longest is not None and max(width, height) > longest:
            raise ValueError(
                f"data.resolution, data.max_aspect: images of {width}x{height}, but this denoiser has positions for "
                f"{longest} pixels along each side, expected no more. Lower one of the two."
            )


@dataclass(frozen=True)
class BucketFigures:
    """The effect of a bucket on its images."""

    width: int
    height: int
    num_pictures: int
    crop_loss_mean: float
    num_upscaled: int


def bucket_figures(bucket: Bucket, records: Sequence[Record]) -> BucketFigures:
    """Average the share of area cropped away, and count enlarged images."""
    size = bucket.width, bucket.height
    images = [(records[index].width, records[index].height) for index in bucket.records]
    losses = [crop_loss(*image, *size) for image in images]
    upscaled = sum(cover_scale(*image, *size) > 1 for image in images)
    return BucketFigures(*size, len(images), sum(losses) / len(losses), upscaled)


class BucketBatchSampler(torch.utils.data.Sampler[list[Sample]]):
    """Endless global batches from step `start` on.

    Each bucket has its own stream of shuffled passes over its images, and a batch takes the next images of the bucket
    that has come least far through its passes. An image whose record says repeats = r is in each pass r times.

    How even that is: within a bucket no image is seen again before all others were. Let the least bucket be at p
    passes. A bucket of n images was last served when it was the least itself, at p or before, and by one batch of size
    B; so it is between p and p + B / n. Hence no two buckets of at least a batch are ever more than one pass apart, and
    every image has been seen once one pass and one batch per bucket are through.
    """

    def __init__(
        self, buckets: Sequence[Bucket], repeats: Sequence[int], batch_size: int, *, seed: int, start: int = 0
    ) -> None:
        self.streams = [[index for index in bucket.records for _ in range(repeats[index])] for bucket in buckets]
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.drop_last = True
        self._orders: dict[int, tuple[int, torch.Tensor]] = {}

    def __iter__(self) -> Iterator[list[Sample]]:
        served = [0] * len(self.streams)
        for step in itertools.count():
            bucket = min(range(len(served)), key=lambda b: served[b] / len(self.streams[b]))
            if step >= self.start:
                yield [
                    (self._record_at(bucket, served[bucket] + place), step * self.batch_size + place)
                    for place in range(self.batch_size)
                ]
            served[bucket] += self.batch_size

    def _record_at(self, bucket: int, place: int) -> int:
        stream = self.streams[bucket]
        passes, offset = divmod(place, len(stream))
        return stream[int(self._order(bucket, passes)[offset])]

    def _order(self, bucket: int, passes: int) -> torch.Tensor:
        """Shuffle one pass. Each bucket's latest is kept, since its next batch comes after other buckets'."""
        held = self._orders.get(bucket)
        if held is None or held[0] != passes:
            order = torch.randperm(len(self.streams[bucket]), generator=generator(self.seed, "order", bucket, passes))
            held = self._orders[bucket] = (passes, order)
        return held[1]
