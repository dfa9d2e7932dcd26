"""Changed images or captions on resume: refused by name, or allowed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image

from tests.faults.conftest import assert_refused, assert_same_end
from tests.support.runs import Options, losses, metrics, run


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
        (edit_picture, ("1 changed: 0003.png",)),
        (edit_caption, ("1 changed: 0003.png",)),
        (add_picture, ("1 added: extra.png",)),
        (remove_picture, ("1 removed: 0003.png",)),
    ],
)
def test_changed_data_is_refused_unless_allowed(
    change: Callable[[Path], None], words: tuple[str, ...], interrupted: Options, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "pictures"
    shutil.copytree(Path(str(interrupted["data.folder"])), folder)
    change(folder)
    options = interrupted | {"data.folder": folder}
    before = losses(out)
    ended = run("lora", options, tmp_path / "log")
    assert_refused(ended.exit_code, ended.output, *words, "allow_change")
    assert losses(out) == before
    if change is edit_caption:
        ended = run("lora", options | {"data.allow_change": True}, tmp_path / "log")
        assert ended.exit_code == 0, ended.output
        assert f"warning: the images or captions in {folder} differ" in ended.output
        assert metrics(out)[-1]["step"] == 6


def test_the_same_pictures_in_another_place_are_the_same_data(
    interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(Path(str(interrupted["data.folder"])), tmp_path / "elsewhere")
    ended = run("lora", interrupted | {"data.folder": folder}, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert_same_end(tmp_path / "out", straight)


def test_another_base_model_under_the_same_name_is_refused(interrupted: Options, tmp_path: Path) -> None:
    model = shutil.copytree(Path(str(interrupted["model.source"])), tmp_path / "model")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["conv_in.weight"] *= 1.01
    file.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    ended = run("lora", interrupted | {"model.source": model}, tmp_path / "log")
    assert_refused(ended.exit_code, ended.output, "model.source", "step_000004")
