"""The demo's style set: DejaVu glyphs as dark ink on tinted paper. Their names are those of `unicodedata`.
As in real folders some files are duplicates, and one is damaged."""

import importlib.util
import shutil
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from finetune.extras import install_command
from finetune.files import new_folder

PICTURE_SIZE = 64
SUPERSAMPLING = 4  # drawn this much larger, then averaged down: smooth edges
INK = (38, 32, 92)
PAPER = (246, 214, 160)
LARGEST_SIDE = 0.8  # of the image

GLYPHS = (
    "☀☁☂☃☄★☎☕☘☛☠☢☮☯☸☹☺☾♔♕♖♗♘♙♚♛♜♝♞♟♠♡♢♣♨♪♫♻♿⚀⚃⚑⚒⚓⚔⚖⚗⚘⚙⚛⚜⚡⚰⚱✂✆✇✈✉✌✎✏✒✔✝✪✿❀❁❄❆❖❤❦➔➤⌂⌘⌨⌬"
    "😀😂😄😆😇😈😉😋😍😎😐😒😕😗😛😟😠😢😨😮😱😴😵😷😸😺😻😼😽😿🐭🐮🐱🐵"
)
"""Characters that DejaVu Sans draws as images of things."""
NUM_REPEATED = 4


def write_glyph_folder(folder: Path) -> None:
    """Write one PNG per glyph, some duplicates and a damaged file. An example is "umbrella_9730.png". The folder is
    complete or absent. Raises FileNotFoundError where matplotlib, whose wheel contains the fonts, is not installed."""
    large = PICTURE_SIZE * SUPERSAMPLING
    font = ImageFont.truetype(font_file(), large)
    with new_folder(folder) as unfinished:
        files = [unfinished / f"{file_stem(glyph)}.png" for glyph in GLYPHS]
        for glyph, file in zip(GLYPHS, files, strict=True):
            draw_glyph(glyph, font).save(file)
        for file in files[:NUM_REPEATED]:
            shutil.copyfile(file, file.with_stem(f"{file.stem} (1)"))
        whole = files[-1].read_bytes()
        (unfinished / "torn.png").write_bytes(whole[: len(whole) // 2])


def draw_glyph(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw the glyph centred on its paper, as large as fits."""
    side = round(font.size)
    left, top, right, bottom = font.getbbox(glyph)
    fitted = font.font_variant(size=side * side * LARGEST_SIDE / max(right - left, bottom - top))
    left, top, right, bottom = fitted.getbbox(glyph)
    paper = Image.new("RGB", (side, side), PAPER)
    middle = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(paper).text(middle, glyph, INK, fitted)
    return paper.reduce(SUPERSAMPLING)


def file_stem(glyph: str) -> str:
    """Return the glyph's name and number, such as "umbrella_9730". "Black" and "white" mean filled and outlined in
    these names; to a model that knows colours they would mean colours."""
    words = unicodedata.name(glyph).lower().replace("-", " ").split()
    return "_".join([*(word for word in words if word not in ("black", "white")), str(ord(glyph))])


def font_file() -> str:
    """Return the path of DejaVu Sans in matplotlib's wheel, without importing it."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "matplotlib is not installed; the demo draws with the DejaVu font in it. Run: make setup, or "
            f"{install_command('demo')}"
        )
    return str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
