"""The report's part about training sizes: images per size, and cropping."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from datasets_prep.records import BucketRow, Prepared
from datasets_prep.report.bounded import Least, Places
from datasets_prep.report.pieces import Row, Thumbnail, Thumbnails, nothing, number_of, render
from finetune.data.images.decode import crop_loss

MOST_LOSSES = 24
MOST_EXAMPLES = 6
LEAST_LOSS = 0.02
"""Share of an image that must be cut away for it to be shown."""


@dataclass(frozen=True)
class Crop:
    """A thumbnail, and what a training size cuts off it."""

    thumbnail: Thumbnail
    down: float
    """Percent of the height at the top and at the bottom, like `across` of the width."""
    across: float


class Losses:
    """The images that lose most to cropping, collected row by row."""

    def __init__(self) -> None:
        self._least = Least(MOST_LOSSES)

    def add(self, place: int, row: Row) -> None:
        loss = _loss(row)
        if loss >= LEAST_LOSS:
            self._least.add(-loss, place)

    def shown(self, kept: Sequence[Row], thumbnails: Thumbnails) -> list[tuple[Row, Crop | None, float]]:
        rows = [kept[place] for place in self._least.places()]
        return [(row, crop_of(thumbnails.of(str(row["source"])), _bucket_of(row)), _loss(row)) for row in rows]


def buckets(prepared: Prepared, losses: Losses, places: Places, thumbnails: Thumbnails) -> Markup:
    """Show the training sizes, and the images that lose most."""
    if not prepared.buckets:
        return nothing("No training sizes.")
    most = max(bucket.num_pictures for bucket in prepared.buckets) or 1
    ordered = sorted(prepared.buckets, key=lambda bucket: (bucket.width / bucket.height, bucket.width))
    lines = [_bucket(bucket, places, thumbnails) for bucket in ordered]
    return render("sizes.html", "sizes", lines, most, losses.shown(prepared.kept, thumbnails))


def _bucket(bucket: BucketRow, places: Places, thumbnails: Thumbnails) -> tuple[object, ...]:
    """Return the bucket, its icon's width and height, and example crops."""
    scale = 26 / max(bucket.width, bucket.height)
    size = (bucket.width, bucket.height)
    examples = bucket.examples[:MOST_EXAMPLES]
    is_kept = places.of(examples) >= 0
    crops = [crop_of(thumbnails.of(source), size) for source, kept in zip(examples, is_kept, strict=True) if kept]
    return bucket, (bucket.width * scale, bucket.height * scale), crops


def crop_of(thumbnail: Thumbnail | None, size: tuple[int, int]) -> Crop | None:
    """Crop a thumbnail in the middle to the shape of a size."""
    if thumbnail is None:
        return None
    wanted, own = size[0] / size[1], thumbnail.width / thumbnail.height
    return Crop(thumbnail, down=max(0.0, 1 - own / wanted) * 50, across=max(0.0, 1 - wanted / own) * 50)


def _loss(row: Row) -> float:
    """Share of an image that is cut away; 0 where not known."""
    width, height, bucket = int(number_of(row, "width")), int(number_of(row, "height")), _bucket_of(row)
    return round(crop_loss(width, height, *bucket), 4) if min(width, height, *bucket) > 0 else 0.0


def _bucket_of(row: Row) -> tuple[int, int]:
    bucket = row.get("bucket")
    return (bucket[0], bucket[1]) if isinstance(bucket, list | tuple) and len(bucket) == 2 else (0, 0)
