"""A sheet of drawings: rows are concepts, columns are styles."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from quality.concepts import Trial
from quality.drawing import as_image

CONCEPTS = ("umbrella", "key", "camera", "bell", "fish", "house", "book", "sailboat", "rocket", "cat")
STYLES = (
    "",
    "line icon",
    "thin line icon, rounded",
    "bold line icon",
    "broken line icon",
    "solid icon, heavy",
    "two-tone icon, rounded",
    "blue icon with black outline",
    "flat emoji",
    "3d emoji",
    "emoji silhouette",
    "technical line icon",
)
CELL, LABEL = 112, 24


def write_sheet(trial: Trial, target: Path) -> None:
    """Draw every concept without a style, and in each."""
    prompts = [f"{concept}, {style}" if style else concept for concept in CONCEPTS for style in STYLES]
    drawn = trial.draw(prompts)
    sheet = Image.new("RGB", (CELL * (len(STYLES) + 1), LABEL + CELL * len(CONCEPTS)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for column, style in enumerate(STYLES, start=1):
        text.text((CELL * column + CELL // 2, LABEL // 2), style or "no style", "black", font, anchor="mm")
    for row, concept in enumerate(CONCEPTS):
        top = LABEL + CELL * row
        text.text((CELL // 2, top + CELL // 2), concept, "black", font, anchor="mm")
        for column in range(len(STYLES)):
            image = as_image(drawn[row * len(STYLES) + column]).resize((CELL - 6, CELL - 6), Image.Resampling.LANCZOS)
            sheet.paste(image, (CELL * (column + 1) + 3, top + 3))
    sheet.save(target)
