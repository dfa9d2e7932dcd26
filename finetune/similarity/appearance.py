"""Images prepared for comparison, and motions of one onto another.

Axes: H W height and width. Torch-free. OpenCV (the extra [dedup]) finds motions that codes do not show, such as that of
an off-centre crop, and is needed for nothing else.
"""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from finetune.similarity.codes import CROPS, KINDS, LARGEST_DISTANCE, border_box, image_codes, meetings
from finetune.similarity.designs import Box, is_flat, is_lettered

SIDE = 384
"""Pixels of the longer side at which corners are found; positions are in these pixels."""
SIMPLE_SIDE, SIMPLE_BYTES = 256, 1300
"""An image that takes fewer bytes at this side, in grey as a JPEG, has so little in it that it may be drawn twice."""
PLAIN_SIDE, FLAT_SHARE, COLOUR_SHARE = 256, 0.35, 0.2
"""Plain images have this share of flat pixels and this share of one colour at this side, as drawings have."""
ICON_SIDE = 288
"""Plain images of at most this size are simple, since icons are saved this small and photographs are not."""
FLAT_STEP = 1  # grey levels between neighbours in what is flat
HEADER_BYTES = 330  # of a grey JPEG as Pillow writes it
NUM_CORNERS, FEWEST_MATCHES, REPROJECTION = 500, 8, 3.0
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
"""The transforms behind the first KINDS."""


def can_verify() -> bool:
    """Check whether OpenCV is installed. Without it motions come from the codes alone."""
    return importlib.util.find_spec("cv2") is not None


@dataclass(frozen=True)
class Corners:
    """Corners of an image, strongest first. ORB describes them (Rublee et al., ICCV 2011)."""

    places: np.ndarray
    """[N 2] x and y, with the middle of the first pixel at one half."""
    descriptors: np.ndarray
    """[N 32] uint8, 256 bits each."""


@dataclass(frozen=True)
class ComparedImage:
    """An image prepared for comparison."""

    image: Image.Image
    """RGB, its longer side at SIDE pixels."""
    codes: np.ndarray
    """[12 4] As of `image_codes`."""
    border: Box
    """The box within its border."""
    is_simple: bool
    """True if it has so little content that another image may look the same by design, as pictograms do."""
    is_plain: bool
    """True if it has large areas of exactly one colour, as drawings have."""

    @cached_property
    def grey(self) -> Image.Image:
        """The image in grey."""
        return self.image.convert("L")

    @cached_property
    def half(self) -> Image.Image:
        """The grey image at half its size, for comparing parts."""
        return self.grey.reduce(2)

    @cached_property
    def small(self) -> Image.Image:
        """The image at a quarter of its size, for tones and colours."""
        return self.image.reduce(4)

    @cached_property
    def is_flat(self) -> bool:
        """True if much of it is flat, as in designs."""
        return is_flat(self.half)

    @cached_property
    def is_lettered(self) -> bool:
        """True if it is flat except for thin strokes, like slides."""
        left, top, right, bottom = (place / 2 for place in self.border)
        return is_lettered(self.half, (left, top, right, bottom))

    @cached_property
    def corners(self) -> Corners:
        """The image's corners."""
        return corners_of(self.grey)

    @cached_property
    def mirrored_corners(self) -> Corners:
        """The corners of its mirror image."""
        return corners_of(self.grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def look_at(image: Image.Image, codes: np.ndarray | None = None, is_simple: bool = False) -> ComparedImage:
    """Prepare an upright RGB image for comparison. `is_simple` marks an image that is known to be simple."""
    scale = SIDE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    scaled = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    sharp = (scaled if scale < 1 else image).convert("L")  # not what is enlarged: its borders are blurred
    zoom = size[0] / sharp.width, size[1] / sharp.height
    left, top, right, bottom = border_box(sharp)
    border = (left * zoom[0], top * zoom[1], right * zoom[0], bottom * zoom[1])
    thumb = sharp.copy()
    thumb.thumbnail((SIMPLE_SIDE, SIMPLE_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if codes is None:
        codes = image_codes(thumb)
    is_plain = has_large_areas(scaled)
    is_icon = is_plain and max(image.size) <= ICON_SIDE
    return ComparedImage(scaled, codes, border, is_simple or is_icon or bytes_in(thumb) < SIMPLE_BYTES, is_plain)


def has_large_areas(image: Image.Image) -> bool:
    """Check whether much of an image is of exactly one colour."""
    image = image.copy()
    image.thumbnail((PLAIN_SIDE, PLAIN_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    grey = np.asarray(image.convert("L"), dtype=np.int16)
    steps = np.maximum(np.abs(np.diff(grey, axis=0))[:, :-1], np.abs(np.diff(grey, axis=1))[:-1])
    commonest = np.unique(pixels, return_counts=True)[1].max()
    return bool((steps <= FLAT_STEP).mean() >= FLAT_SHARE and commonest / pixels.size >= COLOUR_SHARE)


def bytes_in(grey: Image.Image) -> int:
    """Return the size of a grey image as a JPEG."""
    saved = io.BytesIO()
    grey.save(saved, "JPEG", quality=50)
    return len(saved.getvalue()) - HEADER_BYTES


def corners_of(grey: Image.Image, num: int = NUM_CORNERS) -> Corners:
    """Return at most `num` corners of a grey image."""
    import cv2

    found, descriptors = cv2.ORB.create(nfeatures=num).detectAndCompute(np.asarray(grey), None)
    order = sorted(range(len(found)), key=lambda row: (-found[row].response, found[row].pt))[:num]
    if descriptors is None:
        descriptors = np.zeros((0, 32), np.uint8)
    places = np.array([found[row].pt for row in order], dtype=np.float32).reshape(-1, 2)
    return Corners(places + 0.5, descriptors[order])


def closest_codes(first: np.ndarray, second: np.ndarray) -> tuple[int, tuple[int, int]]:
    """Return the smallest distance of codes [12 4], with its kinds."""
    distance = np.bitwise_count(first[:, None] ^ second[None]).sum(-1, dtype=np.int64)
    return min(
        (int(distance[one, other]), (one, other))
        for ones, others in meetings(len(first))
        for one in ones
        for other in others
    )


def motions(first: ComparedImage, second: ComparedImage) -> Iterator[np.ndarray]:
    """Yield affine maps [2 3] that may put `first` onto `second`."""
    distance, kinds = closest_codes(first.codes, second.codes)
    if distance <= LARGEST_DISTANCE:
        yield motion_of(first, second, kinds)
    if can_verify():
        yield from motions_by_corners(first, second)


def motion_of(first: ComparedImage, second: ComparedImage, kinds: tuple[int, int]) -> np.ndarray:
    """Return the affine map [2 3] that makes two codes agree. It maps places of `first` to places of `second`."""
    start = corners_turned(*part_of_code(first, kinds[0]))
    end = corners_turned(*part_of_code(second, kinds[1]))
    return np.linalg.solve(np.column_stack([start, np.ones(3)]), end).T


def part_of_code(look: ComparedImage, kind: int) -> tuple[Box, Image.Transpose | None]:
    """Return the box (left, top, right, bottom) and turn of a kind."""
    width, height = look.image.size
    if kind < len(TURNS):
        return (0, 0, width, height), TURNS[kind]
    if kind == len(TURNS):
        return look.border, None
    share = CROPS[kind - len(TURNS) - 1] / 2
    return (width * share, height * share, width * (1 - share), height * (1 - share)), None


def corners_turned(box: Box, turn: Image.Transpose | None) -> np.ndarray:
    """Return the origins [3 2] of a turned part's corners. They are the left upper, right upper and left lower ones."""
    left, top, right, bottom = box
    grid = np.arange(4, dtype=np.uint8).reshape(2, 2)
    if turn is not None:
        grid = np.asarray(Image.fromarray(grid).transpose(turn))
    places = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
    return places[[grid[0, 0], grid[0, 1], grid[1, 0]]]


def motions_by_corners(first: ComparedImage, second: ComparedImage) -> Iterator[np.ndarray]:
    """Yield the affine maps [2 3] that most corners follow. They map `first` to `second`, and to its mirror image."""
    import cv2

    width = second.image.width
    for is_mirrored in (False, True):
        corners = second.mirrored_corners if is_mirrored else second.corners
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


assert len(KINDS) == len(TURNS) + 1 + len(CROPS)
