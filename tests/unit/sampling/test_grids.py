import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.sampling.generate import generate
from finetune.sampling.grids import shortened, wrapped
from finetune.sampling.metadata import read_own
from tests.unit.sampling.test_generate import SIZE, config, pixels

AXES = ("x=guidance_scale:1,4", "y=seed:3,5", "z=num_inference_steps:1,2")


def places(grid: Path) -> list[list[str]]:
    found = read_own(grid)
    assert found is not None
    return found["images"]


def test_axes_are_columns_rows_and_pages(tiny_model: Path, tmp_path: Path) -> None:
    images = generate(config(tiny_model, tmp_path, "a red circle", "a cross", grid=AXES))
    pages = sorted(tmp_path.glob("grid_*.png"))
    assert len(images) == 16 and len(pages) == 4
    rows = {row["file_name"]: row for row in map(json.loads, (tmp_path / "generated.jsonl").read_text().splitlines())}
    titles: list[str] = []
    for page in pages:
        said: Any = read_own(page)
        titles.append(said["title"])
        for name, row, column in said["images"]:
            made = rows[name]
            assert row == f"seed {made['seed']}" and column == f"guidance {made['guidance_scale']:g}"
            assert f"steps {made['num_inference_steps']}" in titles[-1] and made["prompt"] in titles[-1]
        assert len(said["images"]) == 4
    assert len(set(titles)) == 4


def test_cells_hold_the_images(tiny_model: Path, tmp_path: Path) -> None:
    generate(config(tiny_model, tmp_path, grid=AXES[:2]))
    (path,) = tmp_path.glob("grid_*.png")
    grid, sheet = pixels(path), places(path)
    found = 0
    for name, _, _ in sheet:
        cell = pixels(tmp_path / name)
        for top in range(grid.shape[0] - SIZE + 1):
            for left in range(grid.shape[1] - SIZE + 1):
                if (grid[top, left] == cell[0, 0]).all() and np.array_equal(
                    grid[top : top + SIZE, left : left + SIZE], cell
                ):
                    found += 1
    assert found == len(sheet) == 4


def test_several_images_make_a_contact_sheet_once(tiny_model: Path, tmp_path: Path) -> None:
    given = config(tiny_model, tmp_path, "a red circle", "a cross --w 48", num_seeds=2)
    generate(given)
    (path,) = tmp_path.glob("grid_*.png")
    assert [place[1:] for place in places(path)] == [
        ["1. a red circle", "seed 0"],
        ["1. a red circle", "seed 1"],
        ["2. a cross", "seed 0"],
        ["2. a cross", "seed 1"],
    ]
    before = path.stat().st_mtime_ns
    generate(given)
    assert path.stat().st_mtime_ns == before and len(list(tmp_path.glob("grid_*.png"))) == 1
    generate(config(tiny_model, tmp_path / "one", "a red circle"))
    assert list((tmp_path / "one").glob("grid_*.png")) == []


def test_prompts_may_be_an_axis(tiny_model: Path, tmp_path: Path) -> None:
    generate(config(tiny_model, tmp_path, "a red circle", "a cross", grid=("x=seed:0,1", "y=prompt")))
    (path,) = tmp_path.glob("grid_*.png")
    assert {row for _, row, _ in places(path)} == {"1. a red circle", "2. a cross"}


@pytest.mark.parametrize("text", ["a", "a word " * 30, "w" * 300])
def test_labels_stay_within_their_width(text: str) -> None:
    from PIL import ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(Image.new("RGB", (8, 8))), ImageFont.load_default(14)
    for line in [shortened(draw, text, font, 100), *wrapped(draw, text, font, 100)]:
        assert draw.textlength(line, font) <= 100
    assert " ".join(wrapped(draw, "a word " * 30, font, 100)) == ("a word " * 30).strip()
