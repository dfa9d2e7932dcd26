"""Labelled grids of images: a contact sheet, or pages of axes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from finetune.sampling.metadata import OWN_CHUNK, save_png
from finetune.sampling.planned import PlannedImage

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MOST_CELLS = 400
LONGEST_SIDE = 8192
"""Pixels of a grid; larger ones are scaled down, since viewers refuse them."""
GAP = 4
SMALLEST_CELL = 96
"""Narrower columns would leave no room for labels."""


def write_grids(folder: Path, images: Sequence[PlannedImage]) -> Iterator[Path]:
    """Write each page with several images; return the paths. The same images make the same file."""
    pages: dict[str, list[PlannedImage]] = {}
    for image in images:
        pages.setdefault(image.place.page, []).append(image)
    for number, (title, page) in enumerate(pages.items(), 1):
        if not 1 < len(page) <= MOST_CELLS:
            continue
        names = [[image.path.name, image.place.row, image.place.column] for image in page]
        key = hashlib.sha256(json.dumps([title, names]).encode()).hexdigest()
        path = folder / f"grid_{number:03d}_{key[:8]}.png"
        if not path.exists():
            texts = PngInfo()
            texts.add_text(OWN_CHUNK, json.dumps({"key": key, "title": title, "images": names}))
            save_png(drawn_grid(title, page), path, texts)
        yield path


def drawn_grid(title: str, page: Sequence[PlannedImage]) -> Image.Image:
    """Draw the images of a page in rows and columns, with labels."""
    rows = list(dict.fromkeys(image.place.row for image in page))
    columns = list(dict.fromkeys(image.place.column for image in page))
    cell = cell_size(page, len(rows), len(columns))
    points = max(12, min(24, cell[0] // 16))
    font, line = ImageFont.load_default(points), int(points * 1.6)
    left = 0 if rows == [""] else max(SMALLEST_CELL, min(cell[0], 260))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    heads = [wrapped(draw, label, font, cell[0]) for label in columns]
    start = line if title else 0
    top = start + line * max(map(len, heads))
    size = left + len(columns) * (cell[0] + GAP) + GAP, top + len(rows) * (cell[1] + GAP) + GAP
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    if title:
        draw.text((GAP, 4), shortened(draw, title, font, size[0]), "black", font)
    for number, lines in enumerate(heads):
        for count, text in enumerate(lines):
            draw.text((left + GAP + number * (cell[0] + GAP), start + 4 + count * line), text, "black", font)
    for number, label in enumerate(rows):
        for count, text in enumerate(wrapped(draw, label, font, left - 2 * GAP)[: max(1, cell[1] // line)]):
            draw.text((GAP, top + GAP + number * (cell[1] + GAP) + count * line), text, "black", font)
    for image in page:
        x, y = columns.index(image.place.column), rows.index(image.place.row)
        with Image.open(image.path) as opened:
            shown = opened.convert("RGB")
        shown.thumbnail(cell, Image.Resampling.LANCZOS)
        grid.paste(shown, (left + GAP + x * (cell[0] + GAP), top + GAP + y * (cell[1] + GAP)))
    return grid


def cell_size(page: Sequence[PlannedImage], num_rows: int, num_columns: int) -> tuple[int, int]:
    """Return a cell's width and height. It holds the largest image unless the grid would become too large."""
    sizes: list[tuple[int, int]] = []
    for image in page:
        with Image.open(image.path) as opened:
            sizes.append(opened.size)
    width, height = (max(size[axis] for size in sizes) for axis in (0, 1))
    scale = min(1.0, LONGEST_SIDE / (width * (num_columns + 1)), LONGEST_SIDE / (height * (num_rows + 1)))
    return max(SMALLEST_CELL, int(width * scale)), max(1, int(height * scale))


def shortened(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """Cut a text to a width, with dots at its end."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."


def wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> list[str]:
    """Break a text into lines of a width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > width:
            lines.append(shortened(draw, word, font, width))
        else:
            lines[-1] = shortened(draw, longer, font, width)
    return lines
