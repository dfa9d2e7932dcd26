"""The ways to cut an image to its bucket."""

from dataclasses import dataclass

from finetune.batches.buckets import Bucket
from finetune.config.sections import DataConfig
from finetune.data.images.decode import cover_scale, crop_box
from finetune.data.manifest import Record
from finetune.randomness import uniform


@dataclass(frozen=True)
class View:
    """One way to cut an image to its bucket. Offsets are in [0, 1] of the free margin."""

    width: int
    height: int
    left: float
    top: float
    flip: bool


def views(record: Record, bucket: Bucket, config: DataConfig) -> list[View]:
    """Return every view that training may draw, each once. They depend on the image, not on the run's seed."""
    scale = cover_scale(record.width, record.height, bucket.width, bucket.height)
    free = [round(record.width * scale) - bucket.width > 0, round(record.height * scale) - bucket.height > 0]
    places = [(0.5, 0.5)]
    if config.crop == "random" and any(free):
        draws = [
            [uniform(0, "crop", record.sha256, number, axis) for axis in (0, 1)] for number in range(config.num_crops)
        ]
        places = [(x if free[0] else 0.5, y if free[1] else 0.5) for x, y in draws]
    flips = (False, True) if config.flip else (False,)
    return [View(bucket.width, bucket.height, left, top, flip) for left, top in places for flip in flips]


def validation_view(bucket: Bucket) -> View:
    """Cut a held-out image at the centre, not mirrored."""
    return View(bucket.width, bucket.height, 0.5, 0.5, False)


def view_sizes(record: Record, view: View) -> tuple[int, int, int, int, int, int]:
    """Return the `Prompts` sizes of a view. The left edge of a mirrored one is that in the mirrored image."""
    scale = cover_scale(record.width, record.height, view.width, view.height)
    x, y, right, _ = crop_box(record.width, record.height, view.width, view.height, left=view.left, top=view.top)
    left = record.width - right if view.flip else x
    return record.height, record.width, round(y * scale), round(left * scale), view.height, view.width
