"""Agreement of two images: one is moved onto the other. Axes: H W height and width. Torch-free."""

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from finetune.similarity.appearance import ComparedImage, can_verify, closest_codes, look_at, motion_of, motions
from finetune.similarity.codes import CERTAIN_DISTANCE, KINDS, LARGEST_DISTANCE
from finetune.similarity.designs import has_other_words, is_recoloured
from finetune.similarity.tones import brightened, coarse, curve, fitted, largest_part

__all__ = ["CERTAIN", "VERSION", "ComparedImage", "agreement", "can_verify", "is_worth_a_look", "look_at", "motion_of"]

VERSION = 5
"""Increased when two images get another agreement, which depends only on them and on `can_verify`."""
CERTAIN = 0.8
"""Agreement from which images are duplicates.

Different photographs of one subject reach 0.69; of true duplicates 0.1 % fewer are found at 0.80 than at 0.70."""
PARTS, FEWEST_PARTS, FLAT_PART = 8, 8, 4.0
"""Parts along a side whose correlations count, how many must, and the deviation below which they are ignored."""
MOST_PARTS, FEWEST_OF_MOST = 0.17, 32
"""By how much better half of the parts must agree where a quarter do not, and how many parts must count for that.

Text leaves most parts as they were; so do the black corners of turned images, of which few other parts count."""
MIDDLE, FEWEST_OF_MIDDLE, SAME_MIDDLE = slice(2, 6), 4, 0.5
"""Parts along a side in the middle, how many must count, and the median correlation that they have at least in flat
images: photographs of different prints on one table agree around them."""
SAME_TONES = 20.0
"""Levels by which tones and colours of photographs may differ anywhere; other photographs differ by 39 and more."""
SIMPLE_DIFFERENCE, PLAIN_DIFFERENCE = (14.0, 18.0), (30.0, 30.0)
"""Levels by which tones and colours of a part of simple and of plain images may differ."""
SIMPLE_DISTANCE, PLAIN_DISTANCE = 48, 64
"""Bits; codes of simple and of plain images are often close by chance, so a look pays up to here only."""
TONE_PARTS, COLOUR_PARTS = 12, 6
"""Parts along a side within which their differences are averaged."""
COLOUR_GAINS = (0.6, 1.6)
"""By which colourfulness of simple images may differ."""
SMALLEST_OVERLAP = 0.2  # of what is within the target's border; what shows less of it is another image
CLOSE_CORRELATION = 0.8  # of the whole, from which differences of tone are worth a look
TRIMMED = KINDS.index("without its border")
BLUR = ImageFilter.GaussianBlur(0.7)  # before letters are compared, to forgive half a pixel
LUMINANCE = np.array([0.299, 0.587, 0.114])


def is_worth_a_look(is_simple: bool, is_plain: bool, distance: int) -> bool:
    """Check whether codes at a distance may be duplicates'. One image `is_simple`, or both are plain."""
    return distance <= (SIMPLE_DISTANCE if is_simple else PLAIN_DISTANCE if is_plain else LARGEST_DISTANCE)


def agreement(first: ComparedImage, second: ComparedImage) -> float:
    """Return the agreement of two images, 1 for equal ones.

    From CERTAIN on they are duplicates. Photographs with codes up to CERTAIN_DISTANCE need no more. In plain images,
    such as drawings, no part may differ much in tone or colour. Simple images must also agree unturned and in their
    colours, since pictograms that differ in these mean something else.
    """
    distance, kinds = closest_codes(first.codes, second.codes)
    if first.is_simple or second.is_simple:
        return simple_agreement(first, second, kinds)
    is_plain = first.is_plain and second.is_plain
    by_codes = 1 - distance / 256 if distance <= CERTAIN_DISTANCE else 0.0
    if by_codes and not is_plain and not (first.is_flat and second.is_flat):
        return by_codes
    best = 0.0
    for motion in motions(first, second):
        whole, parts = overlaid_correlations(first, second, motion)
        score = max(by_codes, min((2 + whole) / 3, parts))
        if (is_plain and score >= CERTAIN) or whole >= CLOSE_CORRELATION:
            left = differences(first, second, motion, is_fitted=True)
            if not is_plain:
                score = max(score, 1 - (1 - CERTAIN) * max(left) / SAME_TONES)
            elif any(each > largest for each, largest in zip(left, PLAIN_DIFFERENCE, strict=True)):
                continue
        if score >= CERTAIN and is_on_other_colour(first, second, motion):
            break  # where drawings are overlaid, no other motion says more
        if score >= CERTAIN and has_other_text(first, second, motion):
            continue
        best = max(best, score)
        if best >= CERTAIN:
            break
    return best


def overlaid_correlations(first: ComparedImage, second: ComparedImage, motion: np.ndarray) -> tuple[float, float]:
    """Correlate two overlaid images in grey, and their parts. The part correlation is one that a quarter of the parts
    are below, or half of them, if these agree still better. Both are zero where few parts count. Areas outside the
    border of either image do not count."""
    half = motion * [1, 1, 0.5]
    size = first.half.size
    inside = np.asarray(within(first, 2).reduce(2)) > 254
    covered = inside & (np.asarray(moved(within(second, 2), half, size).reduce(2)) > 254)
    if covered.sum() < SMALLEST_OVERLAP * max(1, inside.sum()):
        return 0.0, 0.0
    one = np.asarray(first.half.reduce(2), dtype=np.float32)
    other = np.asarray(moved(second.half, half, size).reduce(2), dtype=np.float32)
    grid = parts_correlations(one, other, covered)
    parts = grid[~np.isnan(grid)]
    if len(parts) < FEWEST_PARTS:
        return 0.0, 0.0
    if first.is_flat and second.is_flat and differs_in_the_middle(grid):
        return 0.0, 0.0
    worse, median = np.percentile(parts, [25, 50])
    if len(parts) >= FEWEST_OF_MOST:
        worse = max(worse, median - MOST_PARTS)
    return max(0.0, correlation(one[covered], other[covered])), max(0.0, float(worse))


def differs_in_the_middle(grid: np.ndarray) -> bool:
    """Check from the correlations [PARTS PARTS] if most middle parts differ."""
    middle = grid[MIDDLE, MIDDLE]
    middle = middle[~np.isnan(middle)]
    return len(middle) >= FEWEST_OF_MIDDLE and bool(np.median(middle) < SAME_MIDDLE)


def within(look: ComparedImage, factor: int) -> Image.Image:
    """Draw the inside of the border white on black, scaled by 1/`factor`."""
    mask = Image.new("L", look.half.size if factor == 2 else look.image.size, 0)
    left, top, right, bottom = (place / factor for place in look.border)
    mask.paste(255, (math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)))
    return mask


def parts_correlations(one: np.ndarray, other: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Correlate the parts [PARTS PARTS]. NaN marks parts half uncovered or flat."""
    found = np.full((PARTS, PARTS), np.nan)
    for row, rows in enumerate(np.array_split(np.arange(one.shape[0]), PARTS)):
        for column, columns in enumerate(np.array_split(np.arange(one.shape[1]), PARTS)):
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            inside = covered[part]
            if inside.mean() <= 0.5:
                continue
            first, second = one[part][inside], other[part][inside]
            if min(first.std(), second.std()) > FLAT_PART:
                found[row, column] = correlation(first, second)
    return found


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlate two lists of tones, 0 if one is flat."""
    first, second = first - first.mean(dtype=np.float64), second - second.mean(dtype=np.float64)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 1e-6 else 0.0


def moved(image: Image.Image, motion: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Apply an affine map from the result to the image. Beyond the image the result is black."""
    return image.transform(size, Image.Transform.AFFINE, tuple(motion.ravel()), Image.Resampling.BILINEAR)


def simple_agreement(first: ComparedImage, second: ComparedImage, kinds: tuple[int, int]) -> float:
    """Return the agreement of simple images, CERTAIN at the largest difference allowed."""
    upright = {(0, 0), (TRIMMED, TRIMMED)}
    if not any(0 < kind < TRIMMED for kind in kinds):
        upright.add(kinds)
    best = 0.0
    for each in sorted(upright):
        motion = motion_of(first, second, each)
        if each == (TRIMMED, TRIMMED) and not is_nearly_whole(motion, first.image.size, second.image.size):
            continue
        left = differences(first, second, motion, is_fitted=False)
        share = max(difference / most for difference, most in zip(left, SIMPLE_DIFFERENCE, strict=True))
        if share <= 1 and any(found(first, second, motion) for found in (is_on_other_colour, has_other_text)):
            continue
        best = max(best, 1 - (1 - CERTAIN) * share)
    return best


def is_on_other_colour(first: ComparedImage, second: ComparedImage, motion: np.ndarray) -> bool:
    """Recognize flat images with another background."""
    if not (first.is_flat and second.is_flat):
        return False
    small, size = motion * [1, 1, 0.25], first.small.size
    inside = shared_within(first, second, motion, 4)
    ours, other = (np.asarray(each, np.float32) for each in (first.small, moved(second.small, small, size)))
    return bool(inside.any()) and is_recoloured(ours, other, inside)


def has_other_text(first: ComparedImage, second: ComparedImage, motion: np.ndarray) -> bool:
    """Recognize lettered images with other words."""
    if not (first.is_flat and second.is_flat and first.is_lettered and second.is_lettered):
        return False
    one, other = (each.filter(BLUR) for each in (first.grey, moved(second.grey, motion, first.grey.size)))
    covered = shared_within(first, second, motion, 1)
    return has_other_words(np.asarray(one, np.float32), np.asarray(other, np.float32), covered)


def shared_within(first: ComparedImage, second: ComparedImage, motion: np.ndarray, factor: int) -> np.ndarray:
    """Return where [H W] the first shows the inside of both borders."""
    one, other = within(first, 1), within(second, 1)
    both = ImageChops.darker(one, moved(other, motion, one.size))
    return np.asarray(both.reduce(factor)) > 254


def is_nearly_whole(motion: np.ndarray, size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Check whether a motion's scale is that of images in full. A larger square is another square."""
    scales = motion[0, 0] * size[0] / other[0], motion[1, 1] * size[1] / other[1]
    return all(abs(scale - 1) < 0.1 for scale in scales)


def differences(
    first: ComparedImage, second: ComparedImage, motion: np.ndarray, is_fitted: bool
) -> tuple[float, float]:
    """Return the largest differences of a part's tone and colour. The contrast, brightness and colourfulness of the
    first are fitted to those of the second: freely where `is_fitted`, else within the bounds of a drawing."""
    small, size = motion * [1, 1, 0.25], first.small.size
    covered = moved(Image.new("L", second.small.size, 255), small, size)
    inside = coarse(covered) > 254
    if inside.mean() < SMALLEST_OVERLAP:
        return 255.0, 255.0
    one, other = coarse(first.small)[inside], coarse(moved(second.small, small, size))[inside]
    tones = one @ LUMINANCE, other @ LUMINANCE
    hues = one - tones[0][:, None], other - tones[1][:, None]
    hue_gain, hue_offset = fitted(hues[0], hues[1])
    if is_fitted:
        hue_gain = max(hue_gain, 0.0)
        hue_offset = hues[1].mean(0) - hue_gain * hues[0].mean(0)
        expected = curve(tones[0], tones[1])
    else:
        hue_gain, hue_offset = float(np.clip(hue_gain, *COLOUR_GAINS)), np.zeros(3)
        expected = brightened(tones[0], tones[1])
    left = np.full((*inside.shape, 3), np.nan)
    left[inside, 0] = tones[1] - expected
    tone = largest_part(left[..., :1], TONE_PARTS)
    left[inside] = hues[1] - hue_gain * hues[0] - hue_offset
    return tone, largest_part(left, COLOUR_PARTS)
