"""Training sizes, and the choice of one for an image; torch-free."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from finetune.config.sections import DataConfig
from finetune.plurals import first_few, plural

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


@cache
def bucket_sizes(resolution: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """Return (width, height) pairs by rising aspect ratio. They are multiples of `step`, none larger in area than
    resolution^2, and no side could grow. Each comes with its transpose, so upright and lying images are alike."""
    sizes = set()
    for short in range(step, resolution + 1, step):
        widest = math.floor(short * max_aspect + 1e-9)
        long = min(resolution * resolution // short, widest) // step * step
        sizes |= {(short, long), (long, short)}
    outer = [
        (w, h) for w, h in sizes if not any((w, h) != other and w <= other[0] and h <= other[1] for other in sizes)
    ]
    return sorted(outer, key=lambda size: size[0] / size[1])


def nearest_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the (width, height) nearest to the image's aspect ratio."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), size))


def unscaled_resolution(width: int, height: int, resolution: int, step: int, max_aspect: float) -> int | None:
    """Return the largest resolution whose bucket an image fills. It is `resolution` at most; None where even the bucket
    of one step is larger than the image."""
    for side in range(resolution, 0, -step):
        size = nearest_size(width, height, bucket_sizes(side, step, max_aspect))
        if size[0] <= width and size[1] <= height:
            return side
    return None


def without_upscaling(manifest: "Manifest", data: DataConfig) -> "Manifest":
    """Lower the resolution of images that are smaller than their bucket. Raises ValueError for those that are smaller
    than the smallest bucket."""
    found = []
    too_small: list[str] = []
    for record in manifest.records:
        asked = record.resolution or data.resolution
        own = unscaled_resolution(record.width, record.height, asked, data.bucket_step, data.max_aspect)
        if own is None:
            too_small.append(f"{record.file_name} ({record.width}x{record.height})")
        found.append(record if own in (None, asked) else replace(record, resolution=own))
    if too_small:
        raise ValueError(
            f"data.upscale: got false, but {plural(len(too_small), 'image')} cannot fill a bucket of "
            f"{data.bucket_step} pixels ({first_few(too_small)}). Remove them, lower data.bucket_step, or set it to "
            "true."
        )
    return replace(manifest, records=tuple(found))
