import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.support.runs import (
    Options,
    completed,
    differing,
    final_state,
    metrics,
    refused,
    same_uncached_and_killed,
    without_lora,
)

STEPS = 7
MASKED: Options = {
    "mask.kind": "file",
    "mask.prior_weight": 0.5,
    "data.crop": "random",
    "data.flip": True,
    "data.num_crops": 2,
    "validation.fraction": 0.2,
    "validation.every": 3,
    "train.steps": STEPS,
}


@pytest.fixture(scope="module")
def masked_pictures(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of other runs, all but one with a mask."""
    folder = tmp_path_factory.mktemp("masked") / "pictures"
    shutil.copytree(pictures, folder)
    for path in sorted(folder.glob("*.png"))[1:]:
        width, height = Image.open(path).size
        mask = Image.new("L", (width, height), 0)
        ImageDraw.Draw(mask).ellipse((width // 5, height // 4, width * 2 // 3, height * 2 // 3), fill=255)
        mask.save(path.with_name(f"{path.stem}-masklabel.png"))
    return folder


@pytest.fixture
def options(tiny_run: Options, masked_pictures: Path) -> Options:
    return tiny_run | MASKED | {"data.folder": masked_pictures}


@pytest.mark.slow
def test_a_masked_run_is_the_same_uncached_and_killed_and_resumed(options: Options, tmp_path: Path) -> None:
    output = same_uncached_and_killed(options, {"cache.latents": False, "data.num_workers": 1}, tmp_path)
    assert "images without a mask, which are trained on as a whole (1): 0000.png" in output


@pytest.mark.slow
def test_masks_alter_what_full_fine_tuning_learns(options: Options, tmp_path: Path) -> None:
    common = without_lora(options) | {"train.steps": 2, "optim.lr": 1e-4, "validation.every": 1}
    del common["mask.prior_weight"]
    for name, own in {"masked": {}, "plain": {"mask.kind": "none"}}.items():
        ended = completed("full", common | own | {"output.folder": tmp_path / name}, tmp_path / "log")
    assert "not used because mask.kind is none" in ended.output
    assert differing(final_state(tmp_path / "masked"), final_state(tmp_path / "plain")) != []
    for ours, plain in zip(metrics(tmp_path / "masked"), metrics(tmp_path / "plain"), strict=True):
        assert ours["loss"] < plain["loss"]
        assert ours["validation/base_loss"] < plain["validation/base_loss"]


def test_a_run_whose_masks_are_changed_is_not_resumed_unasked(
    options: Options, masked_pictures: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(masked_pictures, tmp_path / "pictures")
    options = options | {"data.folder": folder, "train.steps": 2}
    completed("lora", options, tmp_path / "log")
    mask = folder / "0003-masklabel.png"
    Image.new("L", Image.open(mask).size, 255).save(mask)
    refused("lora", options | {"train.steps": 3}, tmp_path / "log", "0003.png", "data.allow_change")
