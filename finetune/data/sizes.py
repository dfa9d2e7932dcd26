"""Training sizes, and the choice of one for an image; torch-free."""

import math
from collections.abc import Sequence


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
