"""Edits that the search for duplicates finds, and its wrong finds.

    python benchmarks/dedup.py [--data ../shared/data]   (about five minutes)

Up to 2,048 images fast is the same as thorough; "codes only" is what it does with more. Figures of photographs are
shown for two halves of the subjects too, to see how far they depend on these.

Every photograph stands with all its edits in one set; a copy counts as found if it is given to its own photograph or
to another copy of it, and as false if to another one, of which those of the same subject are the hard ones. Two
comparisons, each original with each other image: imagehash's 64-bit phash at a distance of at most 8, and at most 10,
which imagededup documents as its default; imagededup itself is not run, since it brings its own torch.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import imagehash
import numpy as np
from PIL import Image, ImageOps

from benchmarks.dedup_designs import logos, slides
from benchmarks.dedup_edits import DRAWN_EDITS, PHOTO_EDITS, Edit
from benchmarks.dedup_originals import print_originals_kept
from benchmarks.dedup_scenes import SCENE_EDITS
from datasets_prep.duplicates import candidates
from datasets_prep.duplicates.search import Known, SearchedImages, SearchOptions, near_duplicates
from datasets_prep.duplicates.stars import PairScores
from finetune.similarity.agreement import can_verify
from finetune.similarity.codes import image_codes

Level = Literal["fast", "thorough"]
DRAWN = ("emoji_base", "style_blob", "style_glyph", "style_line")
LEFT_OUT = ("cat", "03")  # cat/02 is another crop of the same photograph
DRAWN_EDITED = 20  # every so many of the drawings are edited; all are there to be confused


class EditedImages:
    """Originals first, then the edits of each."""

    def __init__(
        self,
        originals: Sequence[Image.Image],
        edits: Mapping[str, Edit | tuple[Edit, Edit]],
        groups: Sequence[str],
        step: int = 1,
    ) -> None:
        """Join edits; the second of two values is for the other half."""
        self.num = len(originals)
        self.groups = groups
        self.edits = ["original"] * self.num
        self.original = list(range(self.num))
        self.images = list(originals)
        for name, edit in edits.items():
            for number in range(0, self.num, step):
                one = edit if callable(edit) else edit[groups[number] == "other half"]
                self.images.append(one(originals[number]))
                self.edits.append(name)
                self.original.append(number)
        self.sizes = [image.width * image.height for image in self.images]
        self.thumbs = [thumbnail(image, 256) for image in self.images]
        self.images = [thumbnail(image, 512) for image in self.images]


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image


def found_by_us(edited: EditedImages, level: Level, few: int, seen: PairScores) -> list[tuple[int, int]]:
    candidates.FEW = few
    codes = np.stack([image_codes(thumb) for thumb in edited.thumbs])
    num = len(codes)
    nothing, everything = np.zeros(num, bool), np.ones(num, bool)
    order, load = np.arange(num), edited.images.__getitem__
    searched = SearchedImages(codes, order, everything, nothing, load)
    found = near_duplicates(searched, SearchOptions(level), Known(seen), lambda *_: None)
    return [(duplicate.keeper, number) for number, duplicate in found.duplicates.items()]


def found_by_phash(edited: EditedImages, largest: int) -> list[tuple[int, int]]:
    hashes = np.stack([imagehash.phash(thumb).hash.ravel() for thumb in edited.thumbs])
    distance = (hashes[: edited.num, None] != hashes[None]).sum(-1)
    return [(int(one), int(two)) for one, two in zip(*np.nonzero(distance <= largest), strict=True) if one < two]


def report(name: str, edited: EditedImages, pairs: Sequence[tuple[int, int]], seconds: float) -> Counter[str]:
    is_own = {(one, two): edited.original[one] == edited.original[two] for one, two in pairs}
    true = {two for (_, two), own in is_own.items() if own}
    false = [pair for pair, own in is_own.items() if not own]
    line(name, len(true), len(false), len(edited.images) - edited.num, seconds)
    for one, two in false[:5]:
        names = [f"{edited.original[number]} {edited.edits[number]}" for number in (one, two)]
        print(f"  false: {names[0]} and {names[1]}")
    for group in dict.fromkeys(edited.groups):
        ours = [two for two in true if edited.groups[edited.original[two]] == group]
        others = [two for _, two in false if edited.groups[edited.original[two]] == group]
        wanted = sum(edited.groups[original] == group for original in edited.original[edited.num :])
        if 0 < wanted < len(edited.images) - edited.num:
            line(f"  {group}", len(ours), len(others), wanted, None)
    return Counter(edited.edits[two] for two in true)


def line(name: str, true: int, false: int, wanted: int, seconds: float | None) -> None:
    precision, recall = true / max(1, true + false), true / wanted
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    spent = "" if seconds is None else f"{seconds:8.1f}"
    print(f"{name:28s} {precision:9.4f} {recall:7.4f} {f1:7.4f} {false:6d} {spent}", flush=True)


def section(title: str, edited: EditedImages, ways: dict[str, tuple[Level, int]]) -> None:
    wanted = len(edited.images) - edited.num
    print(f"\n{title}: {edited.num} originals, {wanted} edits\n")
    print(f"{'':28s} precision  recall      F1  false  seconds")
    rows: dict[str, Counter[str]] = {}
    seen: PairScores = {}
    for name, (level, few) in ways.items():
        start = time.process_time()
        pairs = found_by_us(edited, level, few, seen)
        rows[name] = report(name, edited, pairs, time.process_time() - start)
    for largest in (8, 10):
        start = time.process_time()
        pairs = found_by_phash(edited, largest)
        name = f"phash 64, at most {largest}"
        rows[f"phash {largest}"] = report(name, edited, pairs, time.process_time() - start)
    print(f"\n{'found of each edit, %':28s}" + "".join(f"{name:>16s}" for name in rows))
    for edit, num in Counter(edited.edits[edited.num :]).items():
        print(f"{edit:28s}" + "".join(f"{100 * counts[edit] / num:16.0f}" for counts in rows.values()))


def designs() -> None:
    """Print how many slides of a layout, and recoloured logos, are merged. All are to be kept apart."""
    print("\nDesigns that are not duplicates: merged images of each set")
    for half, name in enumerate(("rules chosen on these", "held out")):
        for kind, sets in (("slides", slides(half)), ("logos", logos(half))):
            edited = [EditedImages(images, {}, [""] * len(images)) for images in sets]
            merged = [len(found_by_us(each, "thorough", 0, {})) for each in edited]
            print(f"{kind + ', ' + name:32s} {sum(merged):4d} of {sum(map(len, sets))}: {merged}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    options = parser.parse_args()
    print(f"OpenCV: {'yes' if can_verify() else 'no'}")
    paths = [p for p in sorted((options.data / "photos").glob("*/*.jpg")) if (p.parent.name, p.stem) != LEFT_OUT]
    photographs = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    subjects = sorted({path.parent.name for path in paths})
    halves = ["one half" if subjects.index(path.parent.name) % 2 else "other half" for path in paths]
    ways: dict[str, tuple[Level, int]] = {"fast, codes only": ("fast", 0), "thorough": ("thorough", 0)}
    section("Photographs", EditedImages(photographs, PHOTO_EDITS, halves), ways)
    section("Photographs in other scenes", EditedImages(photographs, SCENE_EDITS, halves), ways)
    print_originals_kept(photographs, halves)
    designs()
    paths = [path for name in DRAWN for path in sorted((options.data / name).glob("*.png"))]
    drawings = [Image.open(path).convert("RGB") for path in paths]
    kinds = [path.parent.name for path in paths]
    section("Drawings of 64 pixels", EditedImages(drawings, DRAWN_EDITS, kinds, DRAWN_EDITED), ways)
    large = [image.resize((256, 256), Image.Resampling.BICUBIC) for image in drawings]
    section("Drawings enlarged to 256 pixels", EditedImages(large, DRAWN_EDITS, kinds, 2 * DRAWN_EDITED), ways)


if __name__ == "__main__":
    main()
