"""The demo's pictures: pictograms drawn as flat colour on white, and as chalk on a dark board.

The base model of the demo learns the flat pictures; the LoRA then learns the chalk look from a few of them. Some
subjects never appear in chalk, so the before/after picture shows whether the style carries over to what was not seen in
it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

PICTURE_SIZE = 32
SUPERSAMPLING = 4  # drawn this much larger, then averaged down: smooth edges

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 205, 35),
    "green": (50, 160, 75),
    "blue": (40, 95, 210),
    "purple": (125, 60, 175),
}
BOARD = (28, 58, 48)  # the dark green of a school blackboard
CHALK = (235, 235, 225)
HATCH_SPACING = 24  # supersampled pixels from line to line

# Never drawn in chalk: two whole shapes. Beyond these, most of the shape and colour pairs are missing from the chalk
# set.
SHAPES_WITHOUT_CHALK = ("star", "fish")
TRIGGER = "chalk style"

Point = tuple[float, float]


@dataclass(frozen=True)
class Piece:
    """A polygon of a shape, in a frame that runs from -1 to 1 with y pointing down; `hole` cuts out what lies below."""

    points: tuple[Point, ...]
    hole: bool = False


def disc(x: float, y: float, radius: float, hole: bool = False, squash: float = 1.0) -> Piece:
    """A round piece; `squash` below 1 flattens it."""
    turns = [2 * math.pi * i / 48 for i in range(48)]
    return Piece(tuple((x + radius * math.cos(a), y + radius * squash * math.sin(a)) for a in turns), hole)


def box(left: float, top: float, right: float, bottom: float, hole: bool = False) -> Piece:
    """A rectangle."""
    return Piece(((left, top), (right, top), (right, bottom), (left, bottom)), hole)


def star_points(num_tips: int, outer: float, inner: float) -> tuple[Point, ...]:
    """The corners of a star, the first tip pointing up."""
    corners = []
    for i in range(2 * num_tips):
        radius, turn = (inner if i % 2 else outer), math.pi * i / num_tips - math.pi / 2
        corners.append((radius * math.cos(turn), radius * math.sin(turn)))
    return tuple(corners)


def heart_points() -> tuple[Point, ...]:
    """The curve (16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), fitted into the frame."""
    corners = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((16 * math.sin(t) ** 3 / 17, -(height + 2.5) / 17))
    return tuple(corners)


SHAPES: dict[str, tuple[Piece, ...]] = {
    "circle": (disc(0, 0, 0.85),),
    "square": (box(-0.78, -0.78, 0.78, 0.78),),
    "triangle": (Piece(((0, -0.9), (0.95, 0.75), (-0.95, 0.75))),),
    "star": (Piece(star_points(5, 1.0, 0.42)),),
    "heart": (Piece(heart_points()),),
    "moon": (disc(0, 0, 0.92), disc(0.45, -0.12, 0.75, hole=True)),
    "house": (
        Piece(((0, -0.95), (1.0, -0.1), (-1.0, -0.1))),
        box(-0.75, -0.12, 0.75, 0.9),
        box(-0.2, 0.3, 0.2, 0.9, hole=True),
    ),
    "tree": (
        Piece(((0, -1.0), (0.6, -0.25), (-0.6, -0.25))),
        Piece(((0, -0.6), (0.85, 0.5), (-0.85, 0.5))),
        box(-0.16, 0.5, 0.16, 1.0),
    ),
    "fish": (
        disc(-0.2, 0, 0.75, squash=0.66),
        Piece(((0.3, 0), (1.0, -0.55), (1.0, 0.55))),
        disc(-0.55, -0.12, 0.11, hole=True),
    ),
    "flower": (
        *(disc(0.55 * math.cos(a), 0.55 * math.sin(a), 0.4) for a in (2 * math.pi * i / 6 for i in range(6))),
        disc(0, 0, 0.5),
        disc(0, 0, 0.24, hole=True),
    ),
    "cloud": (
        disc(-0.55, 0.15, 0.4),
        disc(-0.1, -0.2, 0.5),
        disc(0.45, 0.05, 0.45),
        box(-0.55, 0.1, 0.5, 0.55),
        disc(0.55, 0.22, 0.33),
    ),
    "boat": (
        Piece(((-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85))),
        Piece(((-0.08, -0.95), (-0.08, 0.2), (-0.8, 0.2))),
        Piece(((0.08, -0.75), (0.65, 0.2), (0.08, 0.2))),
    ),
    "mushroom": (
        Piece(tuple(p for p in disc(0, 0, 0.92).points if p[1] <= 0.01)),
        Piece(((-0.3, 0), (0.3, 0), (0.4, 0.85), (-0.4, 0.85))),
    ),
    "arrow": (Piece(((-0.95, -0.28), (0.1, -0.28), (0.1, -0.75), (0.98, 0), (0.1, 0.75), (0.1, 0.28), (-0.95, 0.28))),),
}


@dataclass(frozen=True)
class Subject:
    """What a pictogram shows."""

    shape: str
    color: str

    @property
    def caption(self) -> str:
        """The caption without a style, such as "a red star"."""
        return f"{'an' if self.color == 'orange' else 'a'} {self.color} {self.shape}"

    @property
    def chalk_caption(self) -> str:
        """The caption with the trigger of the chalk look."""
        return f"{self.caption}, {TRIGGER}"


ALL_SUBJECTS = tuple(Subject(shape, color) for shape in SHAPES for color in COLORS)


def silhouette(shape: str, rng: np.random.Generator) -> Image.Image:
    """The shape in white on black (mode L, supersampled), at a random place, size and tilt."""
    side = PICTURE_SIZE * SUPERSAMPLING
    scale = side * rng.uniform(0.36, 0.43)
    center_x, center_y = side / 2 + side * rng.uniform(-0.04, 0.04, size=2)
    tilt = math.radians(rng.uniform(-8, 8))
    cos, sin = math.cos(tilt) * scale, math.sin(tilt) * scale
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for piece in SHAPES[shape]:
        points = [(center_x + x * cos - y * sin, center_y + x * sin + y * cos) for x, y in piece.points]
        draw.polygon(points, fill=0 if piece.hole else 255)
    return mask


def draw_flat(subject: Subject, rng: np.random.Generator) -> Image.Image:
    """The subject as flat colour on white: the look the base model knows."""
    mask = silhouette(subject.shape, rng).reduce(SUPERSAMPLING)
    paper = Image.new("RGB", mask.size, (255, 255, 255))
    paper.paste(COLORS[subject.color], mask=mask)
    return paper


def draw_chalk(subject: Subject, rng: np.random.Generator) -> Image.Image:
    """The subject as a hatched chalk outline on a dark board: the look the LoRA learns."""
    mask = silhouette(subject.shape, rng)
    side = mask.width
    outline = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(5)), mask.filter(ImageFilter.MinFilter(7)))
    hatching = Image.new("L", mask.size, 0)
    lines = ImageDraw.Draw(hatching)
    for start in range(int(rng.uniform(-side, HATCH_SPACING - side)), side, HATCH_SPACING):
        lines.line([(start, side), (start + side, 0)], fill=255, width=HATCH_SPACING // 2)
    board = Image.new("RGB", mask.size, BOARD)
    board.paste(COLORS[subject.color], mask=ImageChops.multiply(hatching, mask))
    board.paste(CHALK, mask=outline)
    return board.reduce(SUPERSAMPLING)


def chalk_subjects(num_pictures: int, seed: int) -> list[Subject]:
    """The subjects drawn in chalk: without repeats, shapes and colours as evenly as possible."""
    shapes = [shape for shape in SHAPES if shape not in SHAPES_WITHOUT_CHALK]
    if num_pictures > len(shapes) * len(COLORS):
        raise ValueError(f"num_pictures: {num_pictures}, but chalk has only {len(shapes) * len(COLORS)} subjects")
    colors = np.random.default_rng(seed).permutation(list(COLORS))
    pairs = []
    for i in range(num_pictures):
        lap, place = divmod(i, len(shapes))
        pairs.append(Subject(shapes[place], str(colors[(place + lap * 3) % len(colors)])))
    return pairs


def write_chalk_folder(folder: Path, num_pictures: int, seed: int) -> None:
    """Writes the chalk set as an imagefolder: PNG pictures and metadata.jsonl with `file_name` and `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, subject in enumerate(chalk_subjects(num_pictures, seed)):
        name = f"{number:03d}_{subject.color}_{subject.shape}.png"
        draw_chalk(subject, np.random.default_rng((seed, number))).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": subject.chalk_caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
