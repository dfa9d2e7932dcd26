"""A more general pretraining dataset from flat pictograms on white.

Captions vary, and copies are recoloured.

    python -m tools.pictograms --source PICTOGRAMS --output PREPARED [--looks true]

PICTOGRAMS is a folder with metadata.jsonl. PREPARED receives each image as it is with its caption, the caption with
the words in another order, and the caption with its colour; a copy that is moved, scaled or mirrored; and, of images
of one colour, copies in other colours that are named by them, so colour and thing can be learned apart. With
--looks the copies are meant for an autoencoder, which needs no captions: on paper of any colour, dark ones too, as
line drawings, as silhouettes, and in any colours.
"""

import colorsys
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageOps

from finetune.data.images.decode import open_rgb
from finetune.data.manifest import Record, read_manifest
from finetune.files import new_folder
from tools.colours import COLOUR_WORDS, HUES, main_colour, named, recoloured
from tools.command import run_tool


@dataclass(frozen=True)
class PictogramConfig:
    """Add caption variants and altered copies to a folder of pictograms."""

    source: Path
    """Folder with metadata.jsonl."""
    output: Path
    """Folder to write; it must not exist."""
    recoloured: int = 3
    """Copies in other colours of each image that has one colour."""
    repeats: int = 3
    """Repeats of an unaltered image in one pass; copies have one."""
    looks: bool = False
    """Make copies for an autoencoder instead."""
    seed: int = 0
    """All choices are functions of this number and an image's name."""

    def __post_init__(self) -> None:
        if not 0 <= self.recoloured < len(HUES):
            raise ValueError(f"recoloured: got {self.recoloured}, expected 0 to {len(HUES) - 1}.")
        if self.repeats < 1:
            raise ValueError(f"repeats: got {self.repeats}, expected 1 or more.")


@dataclass(frozen=True)
class Drawing:
    """One image to write."""

    name: str
    image: Image.Image
    captions: tuple[str, ...]
    repeats: int = 1


def moved(image: Image.Image, dice: random.Random) -> Image.Image:
    """Shrink, shift and half of the time mirror an image on white."""
    scale, side = dice.uniform(0.8, 1.0), image.width
    small = image.resize((round(side * scale), round(side * scale)), Image.Resampling.LANCZOS)
    if dice.random() < 0.5:
        small = ImageOps.mirror(small)
    canvas, free = Image.new("RGB", image.size, "white"), side - small.width
    slack = side // 16
    place = tuple(min(max(free // 2 + dice.randint(-slack, slack), 0), free) for _ in range(2))
    canvas.paste(small, (place[0], place[1]))
    return canvas


def variants(caption: str, colour: str | None, dice: random.Random) -> tuple[str, ...]:
    """Return the caption, one with its colour, and one reordered. The colour is added where it is missing."""
    words = caption.split()
    found = [caption]
    if colour and not any(word in COLOUR_WORDS for word in words):
        found.append(f"{colour} {caption}")
    if len(words) > 1:
        shuffled = words[:]
        while shuffled == words:
            dice.shuffle(shuffled)
        found.append(" ".join(shuffled))
    return tuple(found)


def drawings(record: Record, image: Image.Image, config: PictogramConfig) -> Iterator[Drawing]:
    """Yield an image's entries in the set for the denoiser."""
    stem, caption = Path(record.file_name).stem, record.captions[0]
    dice = random.Random(f"{config.seed} {record.file_name}")
    colour = main_colour(image)
    captions = variants(caption, colour, dice)
    yield Drawing(f"{stem}.png", image, captions, config.repeats)
    yield Drawing(f"{stem}_moved.png", moved(image, dice), captions[:2])
    if colour is None:
        return
    others = [name for name in HUES if name != colour]
    for new in dice.sample(others, config.recoloured):
        name = named(caption, colour, new)
        if name == caption:  # it states another colour, so no copy could be named by its own
            return
        copy = recoloured(image, colour, new)
        copy = moved(copy, dice) if dice.random() < 0.5 else copy
        yield Drawing(f"{stem}_{new}.png", copy, (name,))


def looks(record: Record, image: Image.Image, config: PictogramConfig) -> Iterator[Drawing]:
    """Yield an image's entries for the autoencoder: itself and four looks."""
    stem = Path(record.file_name).stem
    dice = random.Random(f"{config.seed} {record.file_name} looks")
    yield Drawing(f"{stem}.png", image, ("",), config.repeats)

    def any_colour(low: float, high: float) -> tuple[int, int, int]:
        red, green, blue = colorsys.hsv_to_rgb(dice.random(), dice.random() * 0.7, dice.uniform(low, high))
        return round(red * 255), round(green * 255), round(blue * 255)

    tint = Image.new("RGB", image.size, any_colour(0.5, 1.0))
    yield Drawing(f"{stem}_paper.png", ImageChops.multiply(image, tint), ("",))
    edges = ImageOps.autocontrast(image.convert("L").filter(ImageFilter.FIND_EDGES))
    darkness = ImageOps.invert(image.convert("L"))
    for look, mask, factor in (("lines", edges, 2), ("solid", darkness, 6)):
        tones = [any_colour(0.75, 1.0), any_colour(0.0, 0.3)]
        dice.shuffle(tones)
        drawn = Image.new("RGB", image.size, tones[0])
        stronger = [min(255, factor * level) for level in range(256)]
        drawn.paste(Image.new("RGB", image.size, tones[1]), mask=mask.point(stronger))
        yield Drawing(f"{stem}_{look}.png", drawn.transpose(dice.choice(list(Image.Transpose))), ("",))
    channels = list(image.split())
    dice.shuffle(channels)
    mixed = Image.merge("RGB", channels)
    yield Drawing(f"{stem}_mixed.png", ImageOps.invert(mixed) if dice.random() < 0.5 else mixed, ("",))


def write(config: PictogramConfig) -> int:
    """Write the set and return the number of its images.

    Raises ValueError where the output is there already, and where two images of the source would get one name.
    """
    if config.output.exists():
        raise ValueError(f"output: {config.output} exists. Name a new folder, or remove that one.")
    manifest = read_manifest(str(config.source))
    stems = Counter(Path(record.file_name).stem for record in manifest.records)
    shared = [stem for stem, count in stems.items() if count > 1]
    if shared:
        raise ValueError(
            f"source: {len(shared)} names belong to several images in it, {shared[0]} for one. Expected a name of "
            "its own for every image, folders and endings apart; rename all but one of each."
        )
    rows = []
    with new_folder(config.output) as unfinished:
        for record in manifest.records:
            image = open_rgb(manifest.source.read(record.file_name))
            for drawing in (looks if config.looks else drawings)(record, image, config):
                drawing.image.save(unfinished / drawing.name)
                first, *others = drawing.captions
                row = {"file_name": drawing.name, "text": first, "captions_alt": others, "repeats": drawing.repeats}
                rows.append(json.dumps(row, ensure_ascii=False))
        (unfinished / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


if __name__ == "__main__":
    run_tool(
        PictogramConfig, lambda config: f"{config.output}: {write(config):,} images.", "python -m tools.pictograms"
    )
