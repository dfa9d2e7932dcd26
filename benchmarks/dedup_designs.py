"""Designs that look alike and are not duplicates: slides, recoloured logos."""

import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

WORDS = (
    *("market", "growth", "revenue", "plan", "team", "customer", "product", "quarter", "risk", "budget", "review"),
    *("launch", "design", "test", "model", "data", "scale", "network", "training", "energy", "result", "method"),
    *("open", "next", "region", "price", "supply", "demand", "user", "research", "goal", "delay", "cost", "chart"),
    *("memory", "value", "safety", "partner", "release", "update", "water", "garden", "history", "bridge", "light"),
    *("summer", "paper", "river", "school", "letter"),
)
FONTS = ("", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf")
"""Those of DejaVu that are not installed are replaced by Pillow's own."""


def font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font; Pillow's own for an empty or unknown name."""
    if name:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            pass
    return ImageFont.load_default(size)


class Slide:
    """One layout; every text is another."""

    def __init__(self, seed: int, width: int, height: int, dark: bool, kind: str, font_name: str, lines: int) -> None:
        self.seed, self.size, self.kind, self.font_name, self.lines = seed, (width, height), kind, font_name, lines
        self.page, self.ink, self.accent = (
            ("#1e1e2e", "#e8e8f0", "#89b4fa") if dark else ("white", "#222222", "#c0392b")
        )

    def draw(self, number: int) -> Image.Image:
        chance = random.Random(f"{self.seed} {number}")
        width, height = self.size
        image = Image.new("RGB", self.size, self.page)
        draw = ImageDraw.Draw(image)
        title, body = font(self.font_name, height // 11), font(self.font_name, height // 22)
        unit, left, top = height // 20, width // 16, height // 4

        def words(num: int) -> str:
            return " ".join(chance.choices(WORDS, k=num)).capitalize()

        if self.kind == "header":
            draw.rectangle((0, 0, width, height // 6), self.accent)
            draw.text((left, unit), words(3), self.page, title)
        elif self.kind == "centre":
            draw.text((width / 2, height * 0.45), words(3), self.ink, title, anchor="mm")
            draw.line((width * 0.3, height * 0.55, width * 0.7, height * 0.55), self.accent, max(2, height // 120))
            draw.text((width / 2, height * 0.63), words(5), self.ink, body, anchor="mm")
        else:
            if self.kind == "side":
                draw.rectangle((0, 0, width // 5, height), self.accent)
                left = width // 4
            draw.text((left, unit), words(3), self.ink, title)
        if self.kind == "gradient":
            ramp = Image.linear_gradient("L").resize(self.size)
            image.paste(Image.blend(image, Image.merge("RGB", (ramp, ramp, ramp)), 0.15))
            draw.text((left, unit), words(3), self.ink, title)
        if self.kind != "centre":
            for row in range(self.lines):
                y = top + round(row * 1.9 * unit)
                draw.ellipse((left, y + unit // 3, left + unit // 3, y + 2 * unit // 3), self.accent)
                draw.text((left + unit, y), words(chance.randint(4, 6)), self.ink, body)
        draw.ellipse((width - 3 * unit, height - 3 * unit, width - unit, height - unit), self.accent)
        draw.text((left, height - 2 * unit), "Example Company", self.ink, font(self.font_name, height // 32))
        draw.text((width // 2, height - 2 * unit), str(number + 1), self.ink, font(self.font_name, height // 32))
        return image


def layouts(half: int) -> list[Slide]:
    """Return layouts of slides. Rules were chosen on half 0; half 1 is held out."""
    kinds = ("header", "list", "centre", "side", "gradient")
    sizes = ((1280, 720), (960, 720), (1920, 1080), (640, 360), (512, 512), (1280, 720))
    found = []
    for place in range(12):
        seed = 100 * half + place
        width, height = sizes[(place + half) % len(sizes)]
        kind, name = kinds[(place + 2 * half) % len(kinds)], FONTS[(place + place // 5 + half) % len(FONTS)]
        found.append(Slide(seed, width, height, (place + half) % 3 == 2, kind, name, 3 + (place + half) % 4))
    return found


Shape = Callable[[ImageDraw.ImageDraw, int, str], None]


def rings(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    for place in range(3):
        x, y = side * (0.24 + 0.18 * place), side * (0.35 + 0.12 * (place % 2))
        draw.ellipse((x, y, x + side * 0.24, y + side * 0.24), outline=ink, width=max(2, side // 40))


def bird(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    draw.ellipse((side * 0.3, side * 0.3, side * 0.7, side * 0.7), ink)
    draw.polygon([(side * 0.65, side * 0.45), (side * 0.85, side * 0.5), (side * 0.65, side * 0.58)], "#e67e22")
    draw.ellipse((side * 0.52, side * 0.38, side * 0.58, side * 0.44), "white")
    draw.polygon([(side * 0.33, side * 0.5), (side * 0.1, side * 0.35), (side * 0.15, side * 0.6)], ink)


def wordmark(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    draw.text((side / 2, side * 0.42), "Nordlicht", ink, font("DejaVuSans-Bold.ttf", side // 8), anchor="mm")
    draw.text((side / 2, side * 0.58), "coffee roasters since 1987", ink, font("", side // 20), anchor="mm")
    draw.line((side * 0.2, side * 0.5, side * 0.8, side * 0.5), "#c0392b", max(2, side // 100))


def crest(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    draw.polygon(
        [(side * x, side * y) for x, y in ((0.25, 0.2), (0.75, 0.2), (0.75, 0.55), (0.5, 0.85), (0.25, 0.55))], ink
    )
    for place in range(4):
        draw.rectangle((side * (0.3 + 0.1 * place), side * 0.3, side * (0.35 + 0.1 * place), side * 0.5), "#f1c40f")
    draw.text((side / 2, side * 0.62), "FC 09", "white", font("DejaVuSans-Bold.ttf", side // 12), anchor="mm")


def leaf(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    draw.chord((side * 0.2, side * 0.2, side * 0.8, side * 0.8), 30, 210, ink)
    draw.line((side * 0.25, side * 0.75, side * 0.7, side * 0.35), "#27ae60", max(2, side // 30))
    draw.text((side * 0.5, side * 0.88), "greenleaf", ink, font("", side // 10), anchor="mm")


def blocks(draw: ImageDraw.ImageDraw, side: int, ink: str) -> None:
    chance = random.Random(5)
    for row in range(5):
        for column in range(5):
            if chance.random() < 0.6:
                x, y = side * (0.2 + 0.12 * column), side * (0.2 + 0.12 * row)
                draw.rectangle((x, y, x + side * 0.1, y + side * 0.1), ink if chance.random() < 0.6 else "#3498db")


COLOURS = (
    ("white", "#f4d03f", "#e74c3c", "#3498db", "#2ecc71", "#bdc3c7", "#9b59b6", "#34495e", "#fab1a0", "#00cec9"),
    ("#ffffff", "#ffeaa7", "#d63031", "#0984e3", "#55efc4", "#fdcb6e", "#6c5ce7", "#2d3436", "#fd79a8", "#b2bec3"),
)


def logos(half: int) -> list[list[Image.Image]]:
    """Return each logo on ten plain colours. Rules were chosen on half 0; half 1 is held out."""
    shapes: tuple[tuple[Shape, int, str], ...] = (
        ((rings, 512, "#111111"), (wordmark, 400, "#222222"), (crest, 256, "#922b21")),
        ((bird, 512, "#1b4f72"), (leaf, 300, "#145a32"), (blocks, 640, "#111111")),
    )[half]
    found = []
    for shape, side, ink in shapes:
        found.append([Image.new("RGB", (side, side), colour) for colour in COLOURS[half]])
        for image in found[-1]:
            shape(ImageDraw.Draw(image), side, ink)
    return found


def slides(half: int) -> list[list[Image.Image]]:
    """Return twelve slides of each layout of a half."""
    return [[layout.draw(number) for number in range(12)] for layout in layouts(half)]
