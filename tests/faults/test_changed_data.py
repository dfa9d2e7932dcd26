import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.runs import Options, assert_same_end, completed, losses, metrics, refused


def edit_picture(folder: Path) -> None:
    picture = Image.open(folder / "0003.png")
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(folder / "0003.png")


def edit_caption(folder: Path) -> None:
    listing = folder / "metadata.jsonl"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(line.replace("paper", "board") if "0003" in line else line for line in lines))


def add_picture(folder: Path) -> None:
    shutil.copy(folder / "0003.png", folder / "extra.png")
    with (folder / "metadata.jsonl").open("a") as listing:
        listing.write('{"file_name": "extra.png", "text": "a red circle on white paper"}\n')


def remove_picture(folder: Path) -> None:
    (folder / "0003.png").unlink()
    listing = folder / "metadata.jsonl"
    listing.write_text("".join(line for line in listing.read_text().splitlines(True) if "0003" not in line))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_picture, "1 changed: 0003.png"),
        (edit_caption, "1 changed: 0003.png"),
        (add_picture, "1 added: extra.png"),
        (remove_picture, "1 removed: 0003.png"),
    ],
)
def test_changed_data_is_refused_unless_allowed(
    change: Callable[[Path], None], words: str, interrupted: Options, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    folder = shutil.copytree(Path(str(interrupted["data.folder"])), tmp_path / "pictures")
    change(folder)
    options = interrupted | {"data.folder": folder}
    before = losses(out)
    refused("lora", options, tmp_path / "log", words, "allow_change")
    assert losses(out) == before
    if change is edit_caption:
        ended = completed("lora", options | {"data.allow_change": True, "optim.lr": 0.02}, tmp_path / "log")
        assert f"warning: the images or captions in {folder} differ" in ended.output
        assert "optim.lr 0.01 -> 0.02" in ended.output
        assert [row["lr"] for row in metrics(out)] == [0.01] * 4 + [0.02] * 2


def test_the_same_images_in_another_place_are_the_same_data(
    interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(Path(str(interrupted["data.folder"])), tmp_path / "elsewhere")
    completed("lora", interrupted | {"data.folder": folder}, tmp_path / "log")
    assert_same_end(tmp_path / "out", straight)
