"""Whether two pictures show the same: one is moved onto the other, and what is left over is judged.

Axes: H W height and width. Torch-free; OpenCV (the extra [dedup]) finds motions that codes do not tell, such as that of
a crop off the centre, and is needed for nothing else.
"""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from finetune.data.similarity import CERTAIN_DISTANCE, CROPS, KINDS, LARGEST_DISTANCE, border_box

SIDE = 384
"""Pixels of the longer side at which pictures are compared."""
SIMPLE_SIDE, SIMPLE_BYTES = 256, 1300
"""A picture that takes fewer bytes at this side, in grey as a JPEG, has so little in it that it may be drawn twice."""
SIMPLE_DIFFERENCE, PLAIN_DIFFERENCE = (14.0, 12.0), (22.0, 18.0)
"""Levels by which tones and colours of a part of simple and of plain pictures may differ."""
CERTAIN, LIKELY = 0.8, 0.9
"""Agreement from which pictures whose codes are close are copies, and others."""
SMALL_SIDE, COARSE = 96, 48
"""Pixels of the longer side at which tones and colours are compared."""
SIMPLE_DISTANCE, PLAIN_DISTANCE = 48, 64
"""Bits; codes of simple and of plain pictures are often close by chance, so that a look pays up to here only."""
TONE_PARTS, COLOUR_PARTS = 12, 6
"""Parts along a side within which their differences are averaged."""
CERTAIN_WITHOUT_MOTION = 48
"""Bits; what CERTAIN_DISTANCE is without OpenCV."""
GAINS, COLOUR_GAINS, LARGEST_OFFSET = (0.75, 1.35), (0.6, 1.6), 25.0
"""By which contrast, colourfulness and brightness of simple pictures may differ."""
PLAIN_SIDE, FLAT_SHARE, COLOUR_SHARE = 256, 0.35, 0.2
"""Plain pictures have this share of flat pixels and this share of one colour at this side, as drawings have."""
FLAT_STEP = 1  # grey levels between neighbours in what is flat
TRIMMED = KINDS.index("without its border")
NUM_CORNERS, FEWEST_MATCHES, REPROJECTION = 500, 8, 3.0
SMALLEST_OVERLAP = 0.2  # of the target; what shows less of it is another picture
FLAT_PART = 4.0  # grey levels of deviation, below which a part of a picture says nothing
HEADER_BYTES = 330  # of a grey JPEG as Pillow writes it
LUMINANCE = np.array([0.299, 0.587, 0.114])
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""
TURNS: tuple[Image.Transpose | None, ...] = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
)
"""What makes the pictures of the first KINDS."""


def can_verify() -> bool:
    """True where OpenCV is installed; without it only motions that the codes tell are tried."""
    return importlib.util.find_spec("cv2") is not None


@dataclass(frozen=True)
class Corners:
    """Corners of a picture and what surrounds them (ORB; Rublee et al., ICCV 2011), strongest first."""

    places: np.ndarray
    """[N 2] x and y, with the middle of the first pixel at one half."""
    descriptors: np.ndarray
    """[N 32] uint8, 256 bits each."""


@dataclass(frozen=True)
class Look:
    """A picture as it is compared."""

    image: Image.Image
    """RGB, its longer side at SIDE pixels."""
    border: Box
    """What is within its border."""
    is_simple: bool
    """Whether it has so little in it that another picture may look the same by design, as pictograms do."""
    is_plain: bool
    """Whether it has large areas of exactly one colour, as drawings have."""

    @cached_property
    def grey(self) -> Image.Image:
        """The picture in grey."""
        return self.image.convert("L")

    @cached_property
    def small(self) -> Image.Image:
        """The picture at SMALL_SIDE pixels, in which tones and colours are compared."""
        small = self.image.copy()
        small.thumbnail((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX)
        return small

    @cached_property
    def pixels(self) -> np.ndarray:
        """The grey picture [H W]."""
        return np.asarray(self.grey, dtype=np.float32)

    @cached_property
    def corners(self) -> Corners:
        """Its corners."""
        return corners_of(self.grey)

    @cached_property
    def mirrored_corners(self) -> Corners:
        """Those of its mirror image."""
        return corners_of(self.grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def look_at(image: Image.Image, is_simple: bool = False) -> Look:
    """Returns what comparing needs of an upright RGB picture; one known to be simple is taken for it."""
    scale = SIDE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    scaled = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    thumb = (scaled if scale < 1 else image).convert("L")  # not what is enlarged: its borders are blurred
    thumb.thumbnail((SIMPLE_SIDE, SIMPLE_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    zoom = (size[0] / thumb.width, size[1] / thumb.height)
    left, top, right, bottom = border_box(thumb)
    border = (left * zoom[0], top * zoom[1], right * zoom[0], bottom * zoom[1])
    return Look(scaled, border, is_simple or bytes_in(thumb) < SIMPLE_BYTES, has_large_areas(scaled))


def has_large_areas(image: Image.Image) -> bool:
    """True for a picture in which much is flat and of exactly one colour."""
    image = image.copy()
    image.thumbnail((PLAIN_SIDE, PLAIN_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    grey = np.asarray(image.convert("L"), dtype=np.int16)
    steps = np.maximum(np.abs(np.diff(grey, axis=0))[:, :-1], np.abs(np.diff(grey, axis=1))[:-1])
    commonest = np.unique(pixels, return_counts=True)[1].max()
    return bool((steps <= FLAT_STEP).mean() >= FLAT_SHARE and commonest / pixels.size >= COLOUR_SHARE)


def bytes_in(grey: Image.Image) -> int:
    """Returns how many bytes a grey picture takes as a JPEG."""
    saved = io.BytesIO()
    grey.save(saved, "JPEG", quality=50)
    return len(saved.getvalue()) - HEADER_BYTES


def corners_of(grey: Image.Image, num: int = NUM_CORNERS) -> Corners:
    """Returns at most `num` corners of a grey picture."""
    import cv2

    found, descriptors = cv2.ORB.create(nfeatures=num).detectAndCompute(np.asarray(grey), None)
    order = sorted(range(len(found)), key=lambda row: (-found[row].response, found[row].pt))[:num]
    if descriptors is None:
        descriptors = np.zeros((0, 32), np.uint8)
    places = np.array([found[row].pt for row in order], dtype=np.float32).reshape(-1, 2)
    return Corners(places + 0.5, descriptors[order])


def seen_of(look: Look, kind: int) -> tuple[Box, Image.Transpose | None]:
    """Returns which part of a picture a code of this kind is of (left, top, right, bottom), and how it is turned."""
    width, height = look.image.size
    if kind < len(TURNS):
        return (0, 0, width, height), TURNS[kind]
    if kind == len(TURNS):
        return look.border, None
    share = CROPS[kind - len(TURNS) - 1] / 2
    return (width * share, height * share, width * (1 - share), height * (1 - share)), None


def corners_turned(box: Box, turn: Image.Transpose | None) -> np.ndarray:
    """Returns where [3 2] the left upper, right upper and left lower corner of a turned part come from."""
    left, top, right, bottom = box
    grid = np.arange(4, dtype=np.uint8).reshape(2, 2)
    if turn is not None:
        grid = np.asarray(Image.fromarray(grid).transpose(turn))
    places = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
    return places[[grid[0, 0], grid[0, 1], grid[1, 0]]]


def motion_of(first: Look, second: Look, kinds: tuple[int, int]) -> np.ndarray:
    """Returns the affine map [2 3] from places of `first` to those of `second` that makes their codes agree."""
    start = corners_turned(*seen_of(first, kinds[0]))
    end = corners_turned(*seen_of(second, kinds[1]))
    return np.linalg.solve(np.column_stack([start, np.ones(3)]), end).T


def motions_by_corners(first: Look, second: Look) -> Iterator[np.ndarray]:
    """Yields the affine maps [2 3] from `first` to `second`, and to its mirror image, that most corners follow."""
    import cv2

    width = second.image.width
    for corners, is_mirrored in ((second.corners, False), (second.mirrored_corners, True)):
        if min(len(first.corners.places), len(corners.places)) < FEWEST_MATCHES:
            continue
        matches = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(corners.descriptors, first.corners.descriptors, k=2)
        good = [pair[0] for pair in matches if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
        if len(good) < FEWEST_MATCHES:
            continue
        start = corners.places[[match.queryIdx for match in good]]
        end = first.corners.places[[match.trainIdx for match in good]]
        cv2.setRNGSeed(0)
        onto, _ = cv2.estimateAffine2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=REPROJECTION)
        if onto is None or not 0.05 < abs(np.linalg.det(onto[:, :2])) < 20:
            continue
        motion = np.linalg.inv(np.vstack([onto, [0, 0, 1]]))[:2]
        if is_mirrored:
            motion[0] = [-motion[0, 0], -motion[0, 1], width - motion[0, 2]]
        yield motion


def moved(image: Image.Image, motion: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Returns the picture seen through an affine map of places of the result to places of it; black where it ends."""
    return image.transform(size, Image.Transform.AFFINE, tuple(motion.ravel()), Image.Resampling.BILINEAR)


def agreement(first: Look, second: Look, kinds: tuple[int, int] | None, distance: int) -> float:
    """Returns how well two pictures agree, 1 for the same and from CERTAIN on for copies.

    `kinds` are those of their closest codes, which are `distance` bits apart; None where other signs brought them
    together. Photographs with codes up to CERTAIN_DISTANCE need no more. In plain pictures, such as drawings, no part
    may differ much in tone or colour. Simple ones must agree unturned and in their colours too, since pictograms that
    differ in these mean something else.
    """
    if first.is_simple or second.is_simple:
        return simple_agreement(first, second, kinds)
    is_plain = first.is_plain and second.is_plain
    best = 0.0
    for motion in motions(first, second, kinds):
        score = 1 - distance / 256
        if kinds is None or distance > certain_distance():
            score = overlaid_correlation(first, second, motion)
        if score >= CERTAIN and is_plain:
            tone, colour = differences(first, second, motion, is_fitted=True)
            if max(tone / PLAIN_DIFFERENCE[0], colour / PLAIN_DIFFERENCE[1]) > 1:
                continue
        best = max(best, score)
        if best >= LIKELY or (best >= CERTAIN and kinds is not None):
            break
    return best


def is_worth_a_look(is_simple: bool, is_plain: bool, distance: int) -> bool:
    """Returns whether codes at a distance may be those of copies, given whether one is simple or both are plain."""
    return distance <= (SIMPLE_DISTANCE if is_simple else PLAIN_DISTANCE if is_plain else LARGEST_DISTANCE)


def certain_distance() -> int:
    """Returns the bits up to which codes of photographs decide: more where nothing else can."""
    return CERTAIN_DISTANCE if can_verify() else CERTAIN_WITHOUT_MOTION


def simple_agreement(first: Look, second: Look, kinds: tuple[int, int] | None) -> float:
    """Returns the agreement of pictures with little in them: 1 less a fifth at the largest difference allowed."""
    upright = {(0, 0), (TRIMMED, TRIMMED)}
    if kinds is not None and not any(0 < kind < TRIMMED for kind in kinds):
        upright.add(kinds)
    best = 0.0
    for each in sorted(upright):
        motion = motion_of(first, second, each)
        if each == (TRIMMED, TRIMMED) and not is_nearly_whole(motion, first.image.size, second.image.size):
            continue
        tone, colour = differences(first, second, motion, is_fitted=False)
        best = max(best, 1 - 0.2 * max(tone / SIMPLE_DIFFERENCE[0], colour / SIMPLE_DIFFERENCE[1]))
    return best


def is_nearly_whole(motion: np.ndarray, size: tuple[int, int], other: tuple[int, int]) -> bool:
    """True where a motion scales a picture as if both were seen in full: a larger square is another square."""
    scales = motion[0, 0] * size[0] / other[0], motion[1, 1] * size[1] / other[1]
    return all(abs(scale - 1) < 0.1 for scale in scales)


def motions(first: Look, second: Look, kinds: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Yields maps [2 3] from places of `first` to places of `second` that may make them agree."""
    if kinds is not None:
        yield motion_of(first, second, kinds)
    if can_verify():
        yield from motions_by_corners(first, second)


def overlaid_correlation(first: Look, second: Look, motion: np.ndarray) -> float:
    """Returns the correlation of two pictures on each other in grey, or of their worse parts if that is less."""
    size = first.image.size
    covered = np.asarray(moved(Image.new("L", second.image.size, 255), motion, size)) > 254
    if covered.mean() < SMALLEST_OVERLAP:
        return 0.0
    grey = np.asarray(moved(second.grey, motion, size), dtype=np.float32)
    whole = correlation(first.pixels[covered], grey[covered])
    return min(whole, worse_parts(first.pixels, grey, covered)) if whole >= CERTAIN else max(whole, 0.0)


def differences(first: Look, second: Look, motion: np.ndarray, is_fitted: bool) -> tuple[float, float]:
    """Returns the largest differences of tone and of colour of a part, in levels of 255.

    The contrast, brightness and colourfulness of the first are fitted to those of the second: freely where
    `is_fitted`, else within the bounds of what leaves a drawing the same.
    """
    scale = first.small.width / first.image.width, first.small.height / first.image.height
    other_scale = second.small.width / second.image.width, second.small.height / second.image.height
    small = np.diag(other_scale) @ motion @ np.diag([1 / scale[0], 1 / scale[1], 1])
    covered = moved(Image.new("L", second.small.size, 255), small, first.small.size)
    inside = coarse(covered) > 254
    if inside.mean() < SMALLEST_OVERLAP:
        return 255.0, 255.0
    one, other = coarse(first.small)[inside], coarse(moved(second.small, small, first.small.size))[inside]
    tones = one @ LUMINANCE, other @ LUMINANCE
    hues = one - tones[0][:, None], other - tones[1][:, None]
    gain, offset = fitted(tones[0], tones[1])
    hue_gain, _ = fitted(hues[0], hues[1])
    if is_fitted:
        hue_gain = max(hue_gain, 0.0)
        hue_offset = hues[1].mean(0) - hue_gain * hues[0].mean(0)
    else:
        gain, hue_gain, hue_offset = np.clip(gain, *GAINS), np.clip(hue_gain, *COLOUR_GAINS), np.zeros(3)
        offset = np.clip(tones[1].mean() - gain * tones[0].mean(), -LARGEST_OFFSET, LARGEST_OFFSET)
    left = np.full((*inside.shape, 3), np.nan)
    left[inside, 0] = tones[1] - gain * tones[0] - offset
    if is_fitted:  # any rising or falling curve, since brightness is cut off at white
        left[inside, 0] = tones[1] - curve(tones[0], tones[1])
    tone = largest_part(left[..., :1], TONE_PARTS)
    left[inside] = hues[1] - hue_gain * hues[0] - hue_offset
    return tone, largest_part(left, COLOUR_PARTS)


def coarse(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a picture at COARSE pixels a side."""
    scale = COARSE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float64)


def fitted(first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the gain and the offsets that bring `first` closest to `second`, values [N] or [N C]."""
    mean, other = first.mean(0), second.mean(0)
    spread = ((first - mean) ** 2).mean()
    gain = float(((first - mean) * (second - other)).mean() / spread) if spread > 1e-3 else 1.0
    return gain, other - gain * mean


def curve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns for each tone of `first` [N] the mean tone that `second` has where the first is about as bright."""
    steps = np.clip(first, 0, 255) / 16
    weights = np.maximum(1 - np.abs(steps[:, None] - np.arange(17)), 0)
    means = weights.T @ second / np.maximum(weights.sum(0), 1e-6)
    return weights @ means


def largest_part(left: np.ndarray, num_parts: int) -> float:
    """Returns how far the mean of a part of differences [H W C] is from 0 at most; NaN does not count."""
    found = [0.0]
    for rows in np.array_split(left, num_parts):
        for part in np.array_split(rows, num_parts, axis=1):
            known = part[~np.isnan(part[..., 0])]
            if len(known) and len(known) * 2 >= part.shape[0] * part.shape[1]:
                found.append(float(np.linalg.norm(known.mean(0))))
    return max(found)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the correlation of two lists of tones, 0 where one is flat."""
    first, second = first - first.mean(dtype=np.float64), second - second.mean(dtype=np.float64)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 1e-6 else 0.0


def worse_parts(first: np.ndarray, second: np.ndarray, covered: np.ndarray) -> float:
    """Returns the correlation below which a quarter of the parts of an 8x8 grid lie; flat parts do not count."""
    found = []
    for rows in np.array_split(np.arange(first.shape[0]), 8):
        for columns in np.array_split(np.arange(first.shape[1]), 8):
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            inside = covered[part]
            one, other = first[part][inside], second[part][inside]
            if inside.mean() > 0.5 and max(one.std(), other.std()) > FLAT_PART:
                found.append(correlation(one, other))
    return float(np.percentile(found, 25)) if found else 0.0


assert len(KINDS) == len(TURNS) + 1 + len(CROPS)
