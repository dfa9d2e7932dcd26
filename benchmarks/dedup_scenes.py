"""Edits into other scenes: canvases, bars, perspective, prints and screenshots."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmarks.dedup_edits import Edit, blurred, combined, framed, saved, scaled


def canvassed(colour: str, share: float, x: float = 0.5, y: float = 0.5) -> Edit:
    """Put an image onto a canvas that is larger by a share. x and y are its position, 0 to 1."""

    def edit(image: Image.Image) -> Image.Image:
        width, height = round(image.width * (1 + share)), round(image.height * (1 + share))
        canvas = Image.new("RGB", (width, height), colour)
        canvas.paste(image, (round((width - image.width) * x), round((height - image.height) * y)))
        return canvas

    return edit


def barred(share: float, colour: str = "black", *texts: str) -> Edit:
    """Add bars at the top and bottom, with any texts given."""

    def edit(image: Image.Image) -> Image.Image:
        bar = round(image.height * share)
        result = ImageOps.expand(image, (0, bar), colour)
        draw, ink = ImageDraw.Draw(result), "black" if colour == "white" else "white"
        font = ImageFont.load_default(max(8, round(bar * 0.6)))
        for text, middle in zip(texts, (bar / 2, result.height - bar / 2), strict=False):
            draw.text((result.width / 2, middle), text, ink, font, anchor="mm")
        return result

    return edit


def vignetted(strength: float) -> Edit:
    """Darken the corners to 1 - strength of the light."""

    def edit(image: Image.Image) -> Image.Image:
        x, y = np.linspace(-1, 1, image.width)[None, :], np.linspace(-1, 1, image.height)[:, None]
        light = 1 - strength * (x**2 + y**2) / 2
        return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))

    return edit


def tilted(strength: float, seed: int, background: tuple[int, int, int] = (0, 0, 0)) -> Edit:
    """Show an image in perspective. Its corners move inwards by at most a share of its sides."""

    def edit(image: Image.Image) -> Image.Image:
        chance = random.Random(seed)
        width, height = image.size
        moves = [
            (chance.uniform(0.2, 1) * strength * width, chance.uniform(0.2, 1) * strength * height) for _ in "1234"
        ]
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        seen = [
            (x + (dx if x == 0 else -dx), y + (dy if y == 0 else -dy))
            for (x, y), (dx, dy) in zip(corners, moves, strict=True)
        ]
        rows, wanted = [], []
        for (x, y), (u, v) in zip(seen, corners, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            wanted += [u, v]
        eight = np.linalg.solve(np.array(rows, float), np.array(wanted, float))
        how = Image.Transform.PERSPECTIVE, tuple(eight), Image.Resampling.BICUBIC
        return image.transform(image.size, *how, fillcolor=background)

    return edit


def lit(from_left: float, to_right: float) -> Edit:
    """Change the light from one side to the other."""

    def edit(image: Image.Image) -> Image.Image:
        light = np.linspace(from_left, to_right, image.width)[None, :, None]
        return Image.fromarray(np.clip(np.asarray(image) * light, 0, 255).astype(np.uint8))

    return edit


def printed(strength: float, seed: int) -> Edit:
    """Photograph a print. It has a paper border, perspective on a table, uneven light, blur and JPEG."""
    return combined(
        framed("#f4f1ea", 0.06),
        canvassed("#6b5a48", 0.2),
        tilted(strength, seed, (107, 90, 72)),
        lit(0.8, 1.1),
        blurred(1.2),
        saved("JPEG", 80),
    )


def browser(share: float, dark: bool = False) -> Edit:
    """Take a screenshot of a browser that shows an image. The image has a share of the page's width."""

    def edit(image: Image.Image) -> Image.Image:
        width, height = 1280, 800
        page, ink = ("#202124", "#9aa0a6") if dark else ("white", "#5f6368")
        screen = Image.new("RGB", (width, height), page)
        draw = ImageDraw.Draw(screen)
        draw.rectangle((0, 0, width, 70), "#35363a" if dark else "#dee1e6")
        for place, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
            draw.ellipse((14 + 22 * place, 12, 26 + 22 * place, 24), colour)
        draw.rounded_rectangle((120, 38, 900, 64), 12, page)
        draw.text((134, 44), "https://example.org/album/view?id=20391", ink, ImageFont.load_default(14))
        scale = min(width * share / image.width, 640 / image.height)
        shown = image.resize((round(image.width * scale), round(image.height * scale)))
        screen.paste(shown, (60, 100))
        start = 90 + shown.width
        for row in range(14 if start + 60 < width else 0):
            end = min(width - 40, start + 90 + 37 * (row % 5))
            draw.rectangle((start, 110 + 40 * row, end, 120 + 40 * row), ink)
        return screen

    return edit


def phone(dark: bool = True) -> Edit:
    """Take a screenshot of a phone with a full-width image."""

    def edit(image: Image.Image) -> Image.Image:
        width, height = 720, 1440
        page, ink = ("black", "white") if dark else ("white", "black")
        screen = Image.new("RGB", (width, height), page)
        draw = ImageDraw.Draw(screen)
        draw.text((30, 16), "12:41", ink, ImageFont.load_default(28))
        draw.rounded_rectangle((630, 18, 690, 42), 6, outline=ink, width=3)
        draw.ellipse((30, 80, 100, 150), "#8e44ad")
        draw.text((120, 100), "somebody", ink, ImageFont.load_default(30))
        shown = image.resize((width, round(image.height * width / image.width)))
        shown = shown.crop((0, 0, width, min(shown.height, 1000)))
        screen.paste(shown, (0, 180))
        for row in range(3):
            text, place = "a line of comments under it"[row * 3 :], (30, 210 + shown.height + 50 * row)
            draw.text(place, text, ink, ImageFont.load_default(28))
        return screen

    return edit


SCENE_EDITS: dict[str, tuple[Edit, Edit]] = {
    "enlarged 1.5": (scaled(1.5), combined(scaled(1.7), saved("JPEG", 90))),
    "canvas": (canvassed("grey", 0.4), canvassed("white", 0.7, 0.2, 0.3)),
    "small on canvas": (
        combined(scaled(0.5), canvassed("white", 1.5)),
        combined(scaled(0.5), canvassed("#3a3f44", 1.2, 0.7, 0.4)),
    ),
    "bars top and bottom": (barred(0.17), barred(0.25)),
    "meme bars": (
        barred(0.2, "white", "WHEN YOU SEE IT", "and cannot unsee it"),
        barred(0.15, "black", "nobody:", "ABSOLUTELY NOBODY"),
    ),
    "vignette": (vignetted(0.6), vignetted(0.8)),
    "perspective": (tilted(0.06, 1), tilted(0.09, 5)),
    "print": (printed(0.05, 2), printed(0.07, 7)),
    "browser": (browser(0.6), browser(0.45, dark=True)),
    "phone": (phone(), phone(dark=False)),
}
"""Each edit with the values that rules were chosen on, and with others for the photographs they were not chosen on."""
