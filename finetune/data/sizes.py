"""The sizes that pictures are trained at, and which of them fits a picture; torch-free, since preparation asks too."""

import math
from collections.abc import Sequence


def bucket_sizes(resolution: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """Returns (width, height) pairs by rising aspect ratio, multiples of `step`, none larger in area than resolution^2.

    No side could grow. With each size stands its transpose, so that upright and lying pictures are treated alike.
    """
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
    """Returns that of the (width, height) pairs whose aspect ratio is nearest to the picture's."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), size))
