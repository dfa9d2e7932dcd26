"""How often the clean original of a group is kept.

    python benchmarks/keeper.py --photos ../shared/data/photos | tee benchmarks/results/keeper.txt

Each photograph is paired with each of its edits, then put into groups with four edits drawn at random. The rules and
thresholds of `datasets_prep.duplicates.keeper` were chosen on every eighth and ninth photograph; the others are shown
apart. These were looked at for the limits of enlargements, the tolerance of borders, and which groups fail; no figure
was fitted to them.
"""

import argparse
import io
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from benchmarks.dedup_edits import Edit, blurred, enhanced, gamma, noisy
from benchmarks.dedup_scenes import vignetted
from datasets_prep.duplicates.facts import Details
from datasets_prep.duplicates.keeper import Member, best_member
from datasets_prep.duplicates.search import keep_order
from datasets_prep.measure.figures import jpeg_quality

GROUPS, EDITS_A_GROUP = 3, 4


def resized(factor: float, kernel: Image.Resampling = Image.Resampling.LANCZOS) -> Edit:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), kernel)


def on_canvas(image: Image.Image, colour: str = "gray") -> Image.Image:
    canvas = Image.new("RGB", (round(image.width * 1.4), round(image.height * 1.4)), colour)
    canvas.paste(image, (image.width // 5, image.height // 5))
    return canvas


def between_bars(image: Image.Image) -> Image.Image:
    bars = Image.new("RGB", (image.width, round(image.height * 1.4)), "black")
    bars.paste(image, (0, image.height // 5))
    return bars


def with_text(image: Image.Image) -> Image.Image:
    marked = image.copy()
    for text, top in (("WHEN YOU SEE IT", 0.05), ("BOTTOM TEXT", 0.85)):
        place = image.width * 0.1, image.height * top
        ImageDraw.Draw(marked).text(
            place, text, fill="white", font_size=image.width // 10, stroke_width=3, stroke_fill="black"
        )
    return marked


def cropped(image: Image.Image) -> Image.Image:
    left, top = round(image.width * 0.075), round(image.height * 0.075)
    return image.crop((left, top, image.width - left, image.height - top))


EDITS: dict[str, tuple[Edit, int]] = {
    "enlarged 1.2": (resized(1.2), 90),
    "enlarged 1.5": (resized(1.5, Image.Resampling.BICUBIC), 90),
    "enlarged 2": (resized(2), 90),
    "enlarged 3": (resized(3, Image.Resampling.BILINEAR), 95),
    "half the size": (resized(0.5), 95),
    "crop": (cropped, 95),
    "crop enlarged": (lambda image: resized(1.6)(cropped(image)), 95),
    "canvas": (on_canvas, 90),
    "canvas, white": (lambda image: on_canvas(image, "white"), 95),
    "canvas, enlarged": (lambda image: on_canvas(resized(1.7)(image)), 92),
    "bars": (between_bars, 95),
    "JPEG 30": (lambda image: image, 30),
    "grey": (lambda image: image.convert("L").convert("RGB"), 95),
    "blur": (blurred(2), 95),
    "sharpened": (lambda image: image.filter(ImageFilter.UnsharpMask(2, 120)), 95),
    "noise": (noisy(12), 95),
    "text": (with_text, 95),
    "vignette": (vignetted(0.84), 95),
    "gamma 0.6": (gamma(0.6), 95),
    "gamma 1.6": (gamma(1.6), 95),
    "contrast 0.6": (enhanced(ImageEnhance.Contrast, 0.6), 95),
}
"""Each edit with the JPEG quality that it is saved at."""


def versions(photo: Path) -> list[bytes]:
    """Return the photograph and its edits as files."""
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    files = [photo.read_bytes()]
    for edit, quality in EDITS.values():
        buffer = io.BytesIO()
        edit(image).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def compare(photo: Path) -> tuple[list[str], int]:
    """Return edits kept instead of the original, and groups that keep it."""
    files = versions(photo)
    opened = [Image.open(io.BytesIO(data)) for data in files]
    qualities = [jpeg_quality(image) for image in opened]
    images = [image.convert("RGB") for image in opened]
    pixels = np.array([image.width * image.height for image in images])
    sizes, captions = np.array([len(data) for data in files]), np.zeros(len(files), bool)
    order = keep_order(pixels, sizes, captions, [f"{number:02d}" for number in range(len(files))])
    ranks = {int(number): rank for rank, number in enumerate(order)}
    members = [Member(number, ranks[number], qualities[number], False) for number in range(len(files))]
    details = Details(images.__getitem__, {})
    names, chance = list(EDITS), np.random.default_rng(1)
    pairs = zip(members[1:], names, strict=True)
    lost = [name for member, name in pairs if best_member([members[0], member], details).number]
    groups = [chance.choice(np.arange(1, len(files)), EDITS_A_GROUP, replace=False) for _ in range(GROUPS)]
    kept = sum(best_member([members[0], *(members[n] for n in group)], details).number == 0 for group in groups)
    return lost, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, also in subfolders")
    photos = sorted(parser.parse_args().photos.rglob("*.jpg"))
    chosen_on = {photo for number, photo in enumerate(photos) if number % 8 == 0 or number % 9 == 0}
    others = [photo for photo in photos if photo not in chosen_on]
    for title, part in (("rules chosen on these", sorted(chosen_on)), ("others", others)):
        lost: Counter[str] = Counter()
        kept = 0
        for photo in part:
            edits, groups = compare(photo)
            lost.update(edits)
            kept += groups
        print(f"{len(part)} photographs, {title}:")
        print(f"  clean originals kept in groups with {EDITS_A_GROUP} edits: {kept} of {GROUPS * len(part)}")
        for name in EDITS:
            print(f"  against {name:17s} {len(part) - lost[name]:3d} of {len(part)}")


if __name__ == "__main__":
    main()
