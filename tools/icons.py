"""Make a pretraining dataset of icons whose captions name concept and style.

    python -m tools.icons --source ICONS --output PREPARED [--for_vae true]

ICONS is a folder of Parquet files with the columns image, concept, style and set. PREPARED/data receives each icon with
captions that name its concept and style in several orders, the concept alone, the style alone, and the concept beside
words that mean nothing; and copies in named colours. Pairs of a concept and a set are held out by their hash: all
variants of such a drawing are left out, and some of them are the images for validation.
"""

import hashlib
import io
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from finetune.data.images.decode import open_rgb
from finetune.data.parquet import read_columns, read_image
from finetune.files import new_folder
from tools.colours import HUES, TONES, main_colour, named, recoloured
from tools.command import run_tool

HELD_OUT_PERCENT = 4
ROWS_PER_GROUP = 1000
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
UNKNOWN = ("{} style", "in the style of {}", "{}", "drawn by {}", "{} art", "{} drawing")
PALETTE = {name: TONES[name] for name in HUES} | {"brown": (0.7, 0.5), "grey": (0.0, 0.55)}


@dataclass(frozen=True)
class IconsConfig:
    """Write the icons of many styles with captions for pretraining."""

    source: Path
    """Folder of Parquet files."""
    output: Path
    """Folder to write; it must not exist."""
    least_styles: int = 5
    """Concepts in fewer styles are left out."""
    least_sets: int = 5
    """Concepts in fewer sets are left out: the variants of one set are one drawing."""
    coloured: float = 0.15
    """Share of icons that also get a copy in another colour."""
    num_validation: int = 256
    """Held-out icons for the validation loss."""
    for_vae: bool = False
    """Write every icon, also of rare concepts, and copies with other colours and papers, for the autoencoder."""
    seed: int = 0
    """All choices are functions of this number and of an icon's concept and style."""

    def __post_init__(self) -> None:
        for name in ("least_styles", "least_sets"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more.")
        if not 0 <= self.coloured <= 1:
            raise ValueError(f"coloured: got {self.coloured}, expected a share from 0 to 1.")
        if self.num_validation < 1:
            raise ValueError(f"num_validation: got {self.num_validation}, expected 1 or more.")


@dataclass(frozen=True)
class Icon:
    """A row of the source."""

    table: Path
    row: int
    concept: str
    style: str
    set: str

    @property
    def is_held_out(self) -> bool:
        """True if the drawing, in all its variants, is kept from training."""
        return int(hashlib.sha256(f"{self.concept}|{self.set}".encode()).hexdigest()[:8], 16) % 100 < HELD_OUT_PERCENT

    def read(self) -> Image.Image:
        """Decode the image in RGB."""
        return open_rgb(read_image(str(self.table), "image", self.row))


@dataclass(frozen=True)
class Drawing:
    """One row to write."""

    name: str
    image: Image.Image
    captions: Sequence[str]
    split: str = "train"


def read_icons(folder: Path) -> list[Icon]:
    """List the icons of all tables of a folder, in order."""
    return [
        Icon(table, first + place, concept, style, of_set)
        for table in sorted(folder.glob("*.parquet"))
        for first, columns in read_columns(str(table), ["concept", "style", "set"])
        for place, (concept, style, of_set) in enumerate(
            zip(columns["concept"], columns["style"], columns["set"], strict=True)
        )
    ]


def write_captions(concept: str, style: str, dice: random.Random) -> list[str]:
    """Write an icon's captions.

    They are concept and style in five orders, each alone, and the concept with unknown words.
    """
    word = "".join(dice.choice(CONSONANTS) + dice.choice(VOWELS) for _ in range(dice.randint(2, 4)))
    unknown = dice.choice(UNKNOWN).format(word)
    return [
        f"{concept}, {style}",
        f"{style}, {concept}",
        f"{concept} {style}",
        f"a {concept}, {style}",
        f"{style} of {concept}",
        concept,
        f"{concept}, {unknown}",
        style,
    ]


def tinted(image: Image.Image, colour: str) -> Image.Image:
    """Draw a black drawing on white in a colour."""
    saturation, value = PALETTE[colour]
    ink = Image.new("HSV", (1, 1), (HUES.get(colour, 25) * 255 // 360, int(saturation * 255), int(value * 255)))
    return ImageOps.colorize(image.convert("L"), ink.convert("RGB").getpixel((0, 0)), "white")  # pyright: ignore


def coloured(icon: Icon, image: Image.Image, dice: random.Random) -> tuple[str, Image.Image] | None:
    """Name and draw the concept in another colour.

    It is None where the icon has many colours or its name states one.
    """
    pixels = np.asarray(image, np.int16)
    if (pixels.max(2) - pixels.min(2)).max() < 30:
        new = dice.choice(list(PALETTE))
        changed = named(icon.concept, "black", new)
        return (changed, tinted(image, new)) if changed != icon.concept else None
    old = main_colour(image)
    if old is None:
        return None
    new = dice.choice([name for name in HUES if name != old])
    changed = named(icon.concept, old, new)
    return (changed, recoloured(image, old, new)) if changed != icon.concept else None


def drawings(icon: Icon, split: str, config: IconsConfig) -> Iterator[Drawing]:
    """Yield an icon's rows in the set for the denoiser."""
    name, dice = f"{icon.concept}, {icon.style}", random.Random(f"{config.seed} {icon.concept} {icon.style} {icon.set}")
    image = icon.read()
    if split == "validation":
        yield Drawing(name, image, [name], split)
        return
    yield Drawing(name, image, write_captions(icon.concept, icon.style, dice))
    if dice.random() < config.coloured and (copy := coloured(icon, image, dice)) is not None:
        concept, other = copy
        yield Drawing(
            f"{concept}, {icon.style}", other, [f"{concept}, {icon.style}", f"{icon.style}, {concept}", concept]
        )


def looks(icon: Icon, config: IconsConfig) -> Iterator[Drawing]:
    """Yield an icon's rows in the set for the autoencoder."""
    image, dice = icon.read(), random.Random(f"{config.seed} {icon.concept} {icon.style} look")
    yield Drawing(f"{icon.concept}, {icon.style}", image, [""])
    if dice.random() < 0.25:
        inverted = ImageOps.invert(image) if dice.random() < 0.5 else image
        dark, light = ([dice.randint(*ends) for _ in range(3)] for ends in ((0, 90), (190, 255)))
        table = [
            round(low + (high - low) * level / 255)
            for low, high in zip(dark, light, strict=True)
            for level in range(256)
        ]
        yield Drawing(f"{icon.concept}, {icon.style}, look", inverted.point(table), [""])


def often_drawn(icons: list[Icon], config: IconsConfig) -> list[Icon]:
    """Keep the icons whose concept appears in enough styles and sets."""
    styles, sets = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for icon in icons:
        styles[icon.concept].add(icon.style)
        sets[icon.concept].add(icon.set)
    return [
        icon
        for icon in icons
        if len(styles[icon.concept]) >= config.least_styles and len(sets[icon.concept]) >= config.least_sets
    ]


def write(config: IconsConfig) -> int:
    """Write the dataset and count its rows. Raises ValueError where the output exists."""
    if config.output.exists():
        raise ValueError(f"output: {config.output} exists. Name a new folder, or remove that one.")
    icons = read_icons(config.source)
    if not icons:
        raise ValueError(f"source: {config.source} has no Parquet files with icons. Give the folder that has them.")
    chosen = icons if config.for_vae else often_drawn(icons, config)
    if not chosen:
        raise ValueError(
            f"least_styles, least_sets: got {config.least_styles} and {config.least_sets}, but no concept of "
            f"{config.source} is in so many. Give smaller numbers."
        )
    apart = [icon for icon in chosen if icon.is_held_out]
    validation = set(random.Random(config.seed).sample(apart, min(config.num_validation, len(apart))))
    with new_folder(config.output) as unfinished:
        (unfinished / "data").mkdir()
        return write_table(
            unfinished / "data" / "icons.parquet",
            (
                drawing
                for icon in chosen
                if not icon.is_held_out or icon in validation
                for drawing in (
                    looks(icon, config)
                    if config.for_vae and icon not in validation
                    else drawings(icon, "validation" if icon in validation else "train", config)
                )
            ),
        )


def write_table(path: Path, rows: Iterator[Drawing]) -> int:
    """Write a table as preparation does, and count its rows."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    strings = pyarrow.list_(pyarrow.string())
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    kinds = {"image": image, "text": pyarrow.string(), "captions_alt": strings, "width": pyarrow.int32()}
    kinds |= {name: pyarrow.string() for name in ("sha256", "source", "split")} | {"height": pyarrow.int32()}
    schema, num = pyarrow.schema(list(kinds.items())), 0
    with ParquetWriter(path, schema) as writer:
        batch: list[dict[str, object]] = []
        for drawing in rows:
            buffer = io.BytesIO()
            drawing.image.save(buffer, "WEBP", lossless=True, method=0)
            first, *others = drawing.captions
            batch.append({
                "image": {"bytes": buffer.getvalue(), "path": f"{drawing.name}.webp"}, "text": first,
                "captions_alt": others, "width": drawing.image.width, "height": drawing.image.height,
                "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "source": drawing.name, "split": drawing.split,
            })  # fmt: skip
            if len(batch) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                num, batch = num + len(batch), []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))
    return num + len(batch)


if __name__ == "__main__":
    run_tool(IconsConfig, lambda config: f"{config.output}: {write(config):,} images.", "python -m tools.icons")
