"""Which edits of photographs and drawings the search for duplicates finds, and what it takes for one wrongly.

    python benchmarks/dedup.py [--data ../shared/data] [--join 1000000]   (about five minutes without the join)

Up to 2,048 pictures fast is the same as thorough; "codes only" is what it does with more. Figures of photographs are
shown for two halves of the subjects too, to see how far they depend on these.

Every photograph stands with all its edits in one set; a copy counts as found if it is given to its own photograph or
to another copy of it, and as false if to another one, of which those of the same subject are the hard ones. Two
comparisons, each original with each other picture: imagehash's 64-bit phash at a distance of at most 8, and at most 10,
which imagededup documents as its default; imagededup itself is not run, since it brings its own torch.
"""

import argparse
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import imagehash
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from datasets_prep import candidates, dedup
from datasets_prep.dedup import Scores, near_copies
from finetune.data import similarity
from finetune.data.similarity import close_pairs, picture_codes

Level = Literal["fast", "thorough"]
Edit = Callable[[Image.Image], Image.Image]
DRAWN = ("emoji_base", "style_blob", "style_glyph", "style_line")
LEFT_OUT = ("cat", "03")  # cat/02 is another crop of the same photograph
DRAWN_EDITED = 20  # every so many of the drawings are edited; all are there to be confused


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


def letterboxed(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, (image.width // 6, 0), "black")


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
    "letterbox": letterboxed,
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


class Pictures:
    """Originals first, then the edits of each."""

    def __init__(
        self, originals: Sequence[Image.Image], edits: dict[str, Edit], groups: Sequence[str], step: int = 1
    ) -> None:
        self.num = len(originals)
        self.groups = groups
        self.edits = ["original"] * self.num
        self.original = list(range(self.num))
        self.images = list(originals)
        for name, edit in edits.items():
            for number in range(0, self.num, step):
                self.images.append(edit(originals[number]))
                self.edits.append(name)
                self.original.append(number)
        self.thumbs = [thumbnail(image, 256) for image in self.images]
        self.images = [thumbnail(image, 512) for image in self.images]


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image


def found_by_us(pictures: Pictures, level: Level, few: int, seen: Scores) -> list[tuple[int, int]]:
    candidates.FEW = few
    codes = np.stack([picture_codes(thumb) for thumb in pictures.thumbs])
    num = len(codes)
    nothing, everything = np.zeros(num, bool), np.ones(num, bool)
    order, load = np.arange(num), pictures.images.__getitem__
    copies = near_copies(codes, order, everything, nothing, load, level, None, seen, lambda *_: None)
    return [(copy.keeper, number) for number, copy in copies.items()]


def found_by_phash(pictures: Pictures, largest: int) -> list[tuple[int, int]]:
    hashes = np.stack([imagehash.phash(thumb).hash.ravel() for thumb in pictures.thumbs])
    distance = (hashes[: pictures.num, None] != hashes[None]).sum(-1)
    return [(int(one), int(two)) for one, two in zip(*np.nonzero(distance <= largest), strict=True) if one < two]


def report(name: str, pictures: Pictures, pairs: Sequence[tuple[int, int]], seconds: float) -> Counter[str]:
    is_own = {(one, two): pictures.original[one] == pictures.original[two] for one, two in pairs}
    true = {two for (_, two), own in is_own.items() if own}
    false = [pair for pair, own in is_own.items() if not own]
    line(name, len(true), len(false), len(pictures.images) - pictures.num, seconds)
    for one, two in false[:5]:
        names = [f"{pictures.original[number]} {pictures.edits[number]}" for number in (one, two)]
        print(f"  false: {names[0]} and {names[1]}")
    for group in dict.fromkeys(pictures.groups):
        ours = [two for two in true if pictures.groups[pictures.original[two]] == group]
        others = [two for _, two in false if pictures.groups[pictures.original[two]] == group]
        wanted = sum(pictures.groups[original] == group for original in pictures.original[pictures.num :])
        if 0 < wanted < len(pictures.images) - pictures.num:
            line(f"  {group}", len(ours), len(others), wanted, None)
    return Counter(pictures.edits[two] for two in true)


def line(name: str, true: int, false: int, wanted: int, seconds: float | None) -> None:
    precision, recall = true / max(1, true + false), true / wanted
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    spent = "" if seconds is None else f"{seconds:8.1f}"
    print(f"{name:28s} {precision:9.4f} {recall:7.4f} {f1:7.4f} {false:6d} {spent}", flush=True)


def section(title: str, pictures: Pictures, ways: dict[str, tuple[Level, int]]) -> None:
    wanted = len(pictures.images) - pictures.num
    print(f"\n{title}: {pictures.num} originals, {wanted} edits\n")
    print(f"{'':28s} precision  recall      F1  false  seconds")
    rows: dict[str, Counter[str]] = {}
    seen = Scores()
    for name, (level, few) in ways.items():
        start = time.process_time()
        pairs = found_by_us(pictures, level, few, seen)
        rows[name] = report(name, pictures, pairs, time.process_time() - start)
    for largest in (8, 10):
        start = time.process_time()
        pairs = found_by_phash(pictures, largest)
        name = f"phash 64, at most {largest}"
        rows[f"phash {largest}"] = report(name, pictures, pairs, time.process_time() - start)
    print(f"\n{'found of each edit, %':28s}" + "".join(f"{name:>16s}" for name in rows))
    for edit, num in Counter(pictures.edits[pictures.num :]).items():
        print(f"{edit:28s}" + "".join(f"{100 * counts[edit] / num:16.0f}" for counts in rows.values()))


def join(num: int) -> None:
    import resource

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 64, (num, 1, 4), dtype=np.uint64)
    for row in range(200):
        bits = np.zeros(256, np.uint8)
        bits[rng.permutation(256)[: 1 + row % similarity.CERTAIN_DISTANCE]] = 1
        codes[num // 2 + row, 0] = codes[row, 0] ^ np.packbits(bits, bitorder="little").view(np.uint64)
    start = time.process_time()
    pairs = close_pairs(codes, similarity.CERTAIN_DISTANCE)
    seconds = time.process_time() - start
    planted = int((pairs.second - pairs.first == num // 2).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"join of {num:,} codes within 31 bits: {seconds:.1f} CPU s, peak {peak:.0f} MB, {planted} of 200 planted found"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--join", type=int, default=0, help="join so many random codes too")
    options = parser.parse_args()
    print(f"OpenCV: {'yes' if dedup.can_verify() else 'no'}")
    if options.join:
        join(options.join)
    paths = sorted((options.data / "photos").glob("*/*.jpg"))
    paths = [path for path in paths if (path.parent.name, path.stem) != LEFT_OUT]
    photographs = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    subjects = sorted({path.parent.name for path in paths})
    halves = ["one half" if subjects.index(path.parent.name) % 2 else "other half" for path in paths]
    ways: dict[str, tuple[Level, int]] = {"fast, codes only": ("fast", 0), "thorough": ("thorough", 0)}
    section("Photographs", Pictures(photographs, PHOTO_EDITS, halves), ways)
    paths = [path for name in DRAWN for path in sorted((options.data / name).glob("*.png"))]
    drawings = [Image.open(path).convert("RGB") for path in paths]
    kinds = [path.parent.name for path in paths]
    section("Drawings of 64 pixels", Pictures(drawings, DRAWN_EDITS, kinds, DRAWN_EDITED), ways)
    large = [image.resize((256, 256), Image.Resampling.BICUBIC) for image in drawings]
    section("Drawings enlarged to 256 pixels", Pictures(large, DRAWN_EDITS, kinds, 2 * DRAWN_EDITED), ways)


if __name__ == "__main__":
    main()
