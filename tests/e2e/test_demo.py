import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.demo.glyphs import GLYPHS, INK, NUM_REPEATED, PAPER, PICTURE_SIZE, file_stem, write_glyph_folder
from finetune.demo.run import CELL, LABEL, PROMPTS, is_newer
from tests.support.launch import succeeded
from tests.support.prepared import rows_of


def run_demo(output: Path) -> str:
    """Run the command in a forked process. Its stages have their own."""
    return succeeded(["-m", "finetune.cli", "demo", "--output", str(output), "--steps", "90"], seconds=1200)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo_output"
    (folder.parent / "said").write_text(run_demo(folder))
    return folder


def cells(sheet: Path, row: int) -> np.ndarray:
    """Return the images of a row of the sheet. [N H W 3] in [0, 255]."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"), dtype=float)
    top = LABEL + CELL * row
    return np.stack(
        [pixels[top + 6 : top + CELL - 6, left + 6 : left + CELL - 6] for left in range(CELL, pixels.shape[1], CELL)]
    )


def paper(pictures: np.ndarray) -> np.ndarray:
    """Return the median colour of the outermost pixels, [3]."""
    edges = [pictures[:, :3], pictures[:, -3:]]
    return np.median(np.concatenate(edges).reshape(-1, 3), axis=0)


@pytest.mark.slow
def test_the_style_set_holds_what_preparation_has_to_find(output: Path) -> None:
    rows = rows_of(output / "prepared", "rejected.jsonl")
    assert sorted(row["reason"] for row in rows) == ["exact_duplicate"] * NUM_REPEATED + ["truncated"]
    kept = rows_of(output / "prepared")
    assert len(kept) == len(GLYPHS)
    assert "umbrella" in {row["text"] for row in kept}


@pytest.mark.slow
def test_it_names_the_image_and_the_report(output: Path) -> None:
    said = (output.parent / "said").read_text()
    for path in (output / "before_after.png", output / "run" / "report.html"):
        assert str(path) in said and path.is_file()


@pytest.mark.slow
def test_the_style_is_unmistakable_and_was_not_there_before(output: Path) -> None:
    before, after, style = (cells(output / "before_after.png", row) for row in range(3))
    assert len(before) == len(PROMPTS)
    assert np.abs(paper(style) - PAPER).max() < 3
    assert np.abs(paper(before) - 255).max() < 10
    assert np.abs(paper(after) - PAPER).max() < 45 < np.abs(paper(before) - PAPER).max()
    between = np.linalg.norm(np.subtract(PAPER, INK))
    nearest = [np.minimum(*(np.linalg.norm(row - tone, axis=-1) for tone in (PAPER, INK))) for row in (before, after)]
    assert np.mean(nearest[0] > between / 4) > 0.5 and np.mean(nearest[1] > between / 4) < 0.35


@pytest.mark.slow
def test_the_same_command_again_trains_and_draws_nothing(output: Path) -> None:
    files = [output / "before_after.png", *(output / "run" / "export").iterdir()]
    first = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    assert "is finished" in run_demo(output)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == first


def test_an_image_is_kept_where_it_is_newer_than_the_lora(tmp_path: Path) -> None:
    file, lora = tmp_path / "image.png", tmp_path / "export" / "a.safetensors"
    lora.parent.mkdir()
    lora.touch()
    assert not is_newer(file, lora.parent)
    for time, is_kept in ((2, True), (1, False), (0, False)):
        file.touch()
        os.utime(file, (time, time))
        os.utime(lora, (1, 1))
        assert is_newer(file, lora.parent) == is_kept


def test_the_prompts_name_nothing_that_the_style_set_shows() -> None:
    shown = {word for glyph in GLYPHS for word in file_stem(glyph).split("_")}
    assert len(set(PROMPTS)) == len(PROMPTS) == 8
    assert shown.isdisjoint(word for prompt in PROMPTS for word in prompt.split())


def test_glyphs_fit_their_paper_and_have_names_of_their_own(tmp_path: Path) -> None:
    write_glyph_folder(tmp_path / "glyphs")
    stems = [file_stem(glyph) for glyph in GLYPHS]
    assert len(set(stems)) == len(stems) == len(GLYPHS)
    for stem in stems:
        pixels = np.asarray(Image.open(tmp_path / "glyphs" / f"{stem}.png"), dtype=float)
        assert pixels.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
        edges = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
        frame = np.concatenate([edge.reshape(-1, 3) for edge in edges])
        assert (frame == PAPER).all(), stem
        assert (pixels != PAPER).any(-1).mean() > 0.02, stem
