"""Edits of photographs and drawings for measuring the search for duplicates."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Edit = Callable[[Image.Image], Image.Image]


def saved(kind: str, quality: int) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality)
        return Image.open(buffer).convert("RGB")

    return edit


def scaled(width: float, height: float | None = None) -> Edit:
    return lambda image: image.resize((round(image.width * width), round(image.height * (height or width))))


def cropped(left: float, top: float, right: float, bottom: float) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((round(width * left), round(height * top), round(width * right), round(height * bottom)))

    return edit


def enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance], factor: float) -> Edit:
    return lambda image: kind(image).enhance(factor)


def gamma(value: float) -> Edit:
    table = [round(255 * (level / 255) ** value) for level in range(256)] * 3
    return lambda image: image.point(table)


def noisy(deviation: float) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    return edit


def lettered(image: Image.Image) -> Image.Image:
    image = image.copy()
    font = ImageFont.load_default(max(10, image.width // 10))
    place = (image.width * 0.05, image.height * 0.8)
    ImageDraw.Draw(image).text(place, "SALE today only", "white", font, stroke_width=2, stroke_fill="black")
    return image


def watermarked(image: Image.Image) -> Image.Image:
    over = image.copy()
    draw, font = ImageDraw.Draw(over), ImageFont.load_default(max(10, image.width // 14))
    for y in range(0, image.height, max(8, image.height // 6)):
        for x in range(0, image.width, max(8, image.width // 3)):
            draw.text((x, y), "sample", "white", font)
    return Image.blend(image, over, 0.4)


def combined(*edits: Edit) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        for each in edits:
            image = each(image)
        return image

    return edit


def blurred(radius: float) -> Edit:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def turned(turn: Image.Transpose) -> Edit:
    return lambda image: image.transpose(turn)


def rotated(degrees: float) -> Edit:
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC)


def framed(colour: str, share: float = 0.1) -> Edit:
    return lambda image: ImageOps.expand(image, round(image.width * share), colour)


PHOTO_EDITS: dict[str, Edit] = {
    "resize .25": scaled(0.25),
    "resize .5": scaled(0.5),
    "resize 2": scaled(2),
    "aspect .8": scaled(0.8, 1),
    "jpeg 30": saved("JPEG", 30),
    "jpeg 10": saved("JPEG", 10),
    "webp 50": saved("WEBP", 50),
    "brightness 1.4": enhanced(ImageEnhance.Brightness, 1.4),
    "brightness .6": enhanced(ImageEnhance.Brightness, 0.6),
    "contrast 1.5": enhanced(ImageEnhance.Contrast, 1.5),
    "contrast .6": enhanced(ImageEnhance.Contrast, 0.6),
    "gamma .6": gamma(0.6),
    "gamma 1.6": gamma(1.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "saturation 2": enhanced(ImageEnhance.Color, 2),
    "noise 15": noisy(15),
    "blur 2": blurred(2),
    "text": lettered,
    "watermark": watermarked,
    "border": framed("white"),
    "letterbox": lambda image: ImageOps.expand(image, (image.width // 6, 0), "black"),
    "mirror": ImageOps.mirror,
    "turn 90": turned(Image.Transpose.ROTATE_90),
    "turn 180": turned(Image.Transpose.ROTATE_180),
    "turn 270": turned(Image.Transpose.ROTATE_270),
    "rotation 3": rotated(3),
    "rotation 10": rotated(10),
    "crop 5 %": cropped(0.025, 0.025, 0.975, 0.975),
    "crop 10 %": cropped(0.05, 0.05, 0.95, 0.95),
    "crop 20 %": cropped(0.1, 0.1, 0.9, 0.9),
    "crop 10 % off": cropped(0, 0, 0.9, 0.9),
    "crop 20 % off": cropped(0.2, 0.2, 1, 1),
    "crop 40 % off": cropped(0.4, 0, 1, 0.6),
    "mirror, crop, jpeg": combined(ImageOps.mirror, cropped(0.05, 0.05, 0.95, 0.95), scaled(0.5), saved("JPEG", 40)),
    "pale, text, jpeg": combined(scaled(0.5), enhanced(ImageEnhance.Color, 0.4), lettered, saved("JPEG", 60)),
}
DRAWN_EDITS: dict[str, Edit] = {
    "resize .5": scaled(0.5),
    "resize 2": scaled(2),
    "resize 4": scaled(4),
    "png": lambda image: image.copy(),
    "jpeg 50": saved("JPEG", 50),
    "jpeg 80": saved("JPEG", 80),
    "webp 50": saved("WEBP", 50),
    "brightness 1.1": enhanced(ImageEnhance.Brightness, 1.1),
    "brightness .9": enhanced(ImageEnhance.Brightness, 0.9),
    "contrast .85": enhanced(ImageEnhance.Contrast, 0.85),
    "saturation 1.2": enhanced(ImageEnhance.Color, 1.2),
    "noise 5": noisy(5),
    "blur 1": blurred(1),
    "black border": framed("black"),
}
