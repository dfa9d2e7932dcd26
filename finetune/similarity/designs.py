"""Different designs: other words, or a drawing on another colour.

Slides and logos that differ so are not duplicates. A flat background agrees with any other and is not evidence; only
the drawing on it is. Axes: H W height and width, C channels. Torch-free.
"""

import numpy as np
from PIL import Image, ImageFilter

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""
TILE, FLAT_TILE = 8, 4.0
"""Pixels along a side of the tiles that are flat or not, and the deviation up to which they are, in levels."""
FLAT_SHARE = 0.35
"""Share of flat tiles that a design has at least; 40 % and more of slides of five layouts were flat."""
STROKE, STROKE_SHARE = 9, 0.7
"""Side of a median filter that removes letters, and the share of tiles with content that it leaves in lettered images.

Photographs of things before a white wall keep 54 % and more, slides 57 % at most but with the largest type."""
WORD_TILE, WORD_DEVIATION, LEAST_DEVIATION = 16, 6.0, 3.0
SAME_WORDS, OTHER_WORDS = 0.7, 0.12
"""Correlation of tiles with the same letters, and the share of tiles with other ones that makes other words."""
SAME_COLOUR, LEAST_BACKGROUND, LEAST_PLAIN = 10, 0.1, 0.6
"""Levels around the commonest colour that are background, its share of the image at least, and how much of it is of one
colour in the other image too."""
OTHER_COLOUR = 40.0
"""Levels by which a background differs from what the change of the drawing on it explains."""
KEPT_TONES = 48, 207
"""Levels between which a drawing shows that it got no other tone, where it is larger than its background."""
TONE_PRIOR, HUE_PRIOR, FEWEST_DRAWN = 1600.0, 50.0, 20
"""Squared levels and pixels; drawings of about one tone or colour, and thin ones, do not show a change of it."""


def is_flat(grey: Image.Image) -> bool:
    """Check whether much of an image [H W] is flat."""
    return bool((deviations(tiles(grey, TILE)) < FLAT_TILE).mean() >= FLAT_SHARE)


def is_lettered(grey: Image.Image, border: Box) -> bool:
    """Recognize flat images [H W] with thin content, such as letters."""
    inside = inner(grey, border)
    has_content = deviations(tiles(inside, TILE)) >= FLAT_TILE
    if 1 - has_content.mean() < FLAT_SHARE:
        return False
    left = deviations(tiles(inside.filter(ImageFilter.MedianFilter(STROKE)), TILE)) >= FLAT_TILE
    return bool((left & has_content).sum() <= STROKE_SHARE * max(1, has_content.sum()))


def inner(grey: Image.Image, border: Box) -> Image.Image:
    """Return the inside of a border, at least a tile."""
    left, top = round(border[0]), round(border[1])
    return grey.crop((left, top, max(round(border[2]), left + TILE), max(round(border[3]), top + TILE)))


def tiles(pixels: Image.Image | np.ndarray, side: int) -> np.ndarray:
    """Cut an image into whole tiles [H W side * side]."""
    whole = np.asarray(pixels, dtype=np.float32)
    height, width = whole.shape[0] // side, whole.shape[1] // side
    cut = whole[: height * side, : width * side].reshape(height, side, width, side)
    return cut.swapaxes(1, 2).reshape(height, width, side * side)


def deviations(cut: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each tile [H W]."""
    return cut.std(-1)


def has_other_words(one: np.ndarray, other: np.ndarray, covered: np.ndarray) -> bool:
    """Check whether much content on the backgrounds of two overlaid images differs. The images are grey [H W]. Each
    tile may be moved by a pixel. Content of only one of them counts up to the content of only the other, since an
    overlaid text adds and removes nothing."""
    first, counts = tiles(one, WORD_TILE), tiles(covered, WORD_TILE).min(-1) > 0
    best = np.full(first.shape[:2], -1.0)
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            best = np.maximum(best, correlations(first, tiles(np.roll(other, (y, x), (0, 1)), WORD_TILE)))
    content = deviations(first), deviations(tiles(other, WORD_TILE))
    has_content = counts & (np.maximum(*content) > WORD_DEVIATION)
    in_both = has_content & (np.minimum(*content) > LEAST_DEVIATION)
    only = [int((has_content & ~in_both & (each > WORD_DEVIATION)).sum()) for each in content]
    num_other = int((in_both & (best < SAME_WORDS)).sum()) + 2 * min(only)
    return num_other > OTHER_WORDS * max(1, int(has_content.sum()))


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of tiles [H W]."""
    first, second = first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True)
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return (first * second).sum(-1) / np.maximum(scale, 1e-3)


def is_recoloured(one: np.ndarray, other: np.ndarray, covered: np.ndarray) -> bool:
    """Check whether only the background of overlaid images [H W 3] differs. A change of brightness or contrast that the
    drawing shows too explains another background, and so does one of saturation. The edges of the drawing do not count,
    since they are mixed with the background."""
    grounds = commonest(one[covered])
    for place, colour in enumerate(grounds):
        if place == 1 and not is_kept(grounds[0], other[covered & (np.abs(one - grounds[0]).max(-1) <= SAME_COLOUR)]):
            return False
        is_ground = np.abs(one - colour).max(-1) <= SAME_COLOUR
        backgrounds = colour, np.median(other[covered & is_ground], axis=0)
        is_other_ground = np.abs(other - backgrounds[1]).max(-1) <= SAME_COLOUR
        both = covered & is_ground & is_other_ground
        if both.sum() < max(LEAST_BACKGROUND * covered.sum(), LEAST_PLAIN * (covered & is_ground).sum()):
            continue
        drawn = eroded(eroded(covered & ~is_ground & ~is_other_ground))
        for part, prior in ((tone_of, TONE_PRIOR), (hue_of, HUE_PRIOR)):
            before, after = part(backgrounds[0]), part(backgrounds[1])
            explained = expected(part(one[drawn]), part(other[drawn]), before, prior)
            if min(float(np.linalg.norm(each - after)) for each in (before, explained)) > OTHER_COLOUR:
                return True
    return False


def tone_of(colours: np.ndarray) -> np.ndarray:
    """Return the mean of the channels [... 1] of colours [... 3]."""
    return colours.mean(-1, keepdims=True)


def hue_of(colours: np.ndarray) -> np.ndarray:
    """Subtract from each channel the mean of the channels."""
    return colours - tone_of(colours)


def expected(first: np.ndarray, second: np.ndarray, colour: np.ndarray, prior: float) -> np.ndarray:
    """Predict a colour [C] from the change of other colours [N C]. It stays the same where they are few."""
    if len(first) < FEWEST_DRAWN:
        return colour
    means = first.mean(0), second.mean(0)
    shared = float(((first - means[0]) * (second - means[1])).mean())
    gain = (shared + prior) / (float(((first - means[0]) ** 2).mean()) + prior)
    return np.clip(means[1] + gain * (colour - means[0]), -255, 255)


def eroded(mask: np.ndarray) -> np.ndarray:
    """Shrink a mask [H W] by the places at its edge."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask


def is_kept(colour: np.ndarray, pixels: np.ndarray) -> bool:
    """Check whether pixels [N 3] still have a colour [3]. Black and white say nothing, for edits leave them."""
    low, high = KEPT_TONES
    return bool(low <= colour.mean() <= high and np.abs(np.median(pixels, axis=0) - colour).max() <= SAME_COLOUR)


def commonest(pixels: np.ndarray) -> list[np.ndarray]:
    """Return the two commonest colours [3] of pixels [N 3]. One is of a drawing, one of its background."""
    bins = (pixels.astype(np.int32) // 16) @ np.array([256, 16, 1])
    values, counts = np.unique(bins, return_counts=True)
    colours = [np.median(pixels[bins == values[place]], axis=0) for place in np.argsort(-counts, kind="stable")[:8]]
    others = [each for each in colours if np.abs(each - colours[0]).max() > SAME_COLOUR]
    return [colours[0], *others[:1]]
