"""Previews of a file of prompts, also after it is gone."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.runs import Options, completed, refused

PROMPTS = "a red circle --w 32 --h 48 --d 7 --s 2\n# a comment\na blue square --ss Euler --n dull --l 3\n"


def shown(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in (folder / "previews").glob("*_prompt*.png")}


def test_each_prompt_keeps_its_options_and_the_config_its_prompts(tiny_run: Options, tmp_path: Path) -> None:
    file, first, second = tmp_path / "prompts.txt", tmp_path / "first", tmp_path / "second"
    file.write_text(PROMPTS)
    options = tiny_run | {"train.steps": 1, "preview.prompts": file, "preview.num_inference_steps": 1}
    completed("lora", options | {"output.folder": first}, tmp_path / "log")
    previews = shown(first)
    assert sorted(previews) == [
        f"step_00000{step}_prompt{name}.png" for step in (0, 1) for name in ("00_seed7", "01_seed0")
    ]
    sizes = {name: image.shape[:2] for name, image in previews.items()}
    assert {sizes[name] for name in sizes if "prompt00" in name} == {(48, 32)}
    assert {sizes[name] for name in sizes if "prompt01" in name} == {(64, 64)}
    assert (first / "previews" / "step_000001_grid.png").exists()
    file.unlink()
    completed("lora", {"config": first / "config.yaml", "output.folder": second}, tmp_path / "log")
    again = shown(second)
    assert previews.keys() == again.keys() and all(np.array_equal(previews[name], again[name]) for name in again)


def test_what_is_wrong_in_the_file_is_said_with_its_line(tiny_run: Options, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square --widths 3\n")
    refused("lora", tiny_run | {"preview.prompts": tmp_path / "prompts.txt"}, tmp_path / "log", "line 3: --widths")
