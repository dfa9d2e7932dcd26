"""Fixed statistics of images: distance of styles, likeness and drift.

All images are arrays [N H W 3] in [0, 1]. Nothing here is learned or knows a model.

* Statistics of a set: the mean histogram of its colours (4x4x4 boxes of RGB), the edge density (share of pixels whose
  grey value differs by more than 0.1 from the neighbour below or to the right) and the saturation (max - min over the
  channels), each averaged over pixels and images.
* Distance of two sets: half the sum of the histograms' differences (the share of pixels that have another colour), plus
  the differences of edge density and of saturation; each part is between 0 and 1.
"""

import numpy as np
from quality.features import colours_and_edges, distances, moved, saturation

BOXES = 4
EDGE = 0.1


def statistics(images: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return mean colour histogram [BOXES^3], edge density and saturation. The histogram sums to 1."""
    boxes = np.minimum((images * BOXES).astype(int), BOXES - 1)
    numbers = (boxes[..., 0] * BOXES + boxes[..., 1]) * BOXES + boxes[..., 2]
    histogram = np.bincount(numbers.ravel(), minlength=BOXES**3) / numbers.size
    down, across = grey_differences(images)
    edges = float(((down > EDGE) | (across > EDGE)).mean())
    return histogram, edges, saturation(images)


def grey_differences(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return grey differences of neighbours, downwards and across, [N H W] each."""
    grey = images.mean(-1)
    down = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    return down, np.abs(np.diff(grey, axis=2, append=grey[:, :, -1:]))


def style_distance(images: np.ndarray, style: np.ndarray) -> dict[str, float]:
    """Return the parts of two datasets' distance, and their sum `total`."""
    (colours, edges, vivid), (own_colours, own_edges, own_vivid) = statistics(images), statistics(style)
    parts = {
        "colours": float(np.abs(colours - own_colours).sum() / 2),
        "edges": abs(edges - own_edges),
        "saturation": abs(vivid - own_vivid),
    }
    return parts | {"total": sum(parts.values())}


def halves_distance(style: np.ndarray) -> float:
    """Average the distance of random halves of a dataset, over twenty splits."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(20):
        order = random.permutation(len(style))
        found.append(style_distance(style[order[::2]], style[order[1::2]])["total"])
    return float(np.mean(found))


def likeness(images: np.ndarray, views: np.ndarray, unit: float) -> float:
    """Return the mean likeness of images to views of the subject.

    It is 1 for a view itself, and 0 at the distance of two unrelated references.
    """
    return float(1 - distances(colours_and_edges(images), colours_and_edges(views)).min(1).mean() / unit)


def drift(images: np.ndarray, before: np.ndarray, unit: float) -> float:
    """Measure how far images of the same prompts and seeds moved.

    The unit is the distance of two unrelated references.
    """
    return moved(images, before) / unit
