import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.imports.test_import import CASES, imported


def written(theirs: object, path: Path) -> tuple[dict[str, Any], str]:
    """Import a config; return what was written, and the printed lines."""
    path.write_text(json.dumps(theirs))
    text, _ = imported(path, path.with_suffix(".new.yaml"))
    return yaml.safe_load(path.with_suffix(".new.yaml").read_text()), text


def images(folder: Path, num: int) -> str:
    """Make a folder with empty files of images' names."""
    folder.mkdir(parents=True)
    for number in range(num):
        (folder / f"{number}.png").touch()
    return str(folder)


def one_trainer(*concepts: dict[str, object], **options: object) -> dict[str, object]:
    """Return a config of OneTrainer with batches of one image."""
    small = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "m", "batch_size": 1}
    return small | {"concepts": list(concepts)} | options


@pytest.mark.parametrize("is_here", [True, False])
def test_fractional_repeats_of_several_folders_keep_the_length_of_a_run(is_here: bool, tmp_path: Path) -> None:
    for name, num in (("a", 2), ("b", 2)):
        if is_here:
            images(tmp_path / name, num)
    concepts = [{"path": str(tmp_path / name), "balancing": times} for name, times in (("a", 0.5), ("b", 3))]
    theirs = one_trainer(*concepts, epochs=3, learning_rate_warmup_steps=0.2)
    config, text = written(theirs, tmp_path / "ot.json")
    assert [each.get("repeats", 1) for each in config["data"]["folders"]] == [1, 6]
    assert config["train"]["epochs"] == 1.5  # 1.5 passes of 14 images are 3 epochs of 7
    assert "epochs 3 -> train.epochs 1.5: an epoch there is 0.5 passes over the folders" in text
    if is_here:
        assert config["optim"]["warmup_steps"] == 4  # a fifth of 21 steps


def test_steps_of_a_run_are_those_of_finetune_plan(tmp_path: Path) -> None:
    folder = images(tmp_path / "a", 10)
    concepts = {"path": folder, "balancing": 2, "include_subdirectories": True}
    theirs = one_trainer(concepts, epochs=5, batch_size=8, learning_rate_warmup_steps=0.5)
    config, text = written(theirs, tmp_path / "ot.json")
    assert config["train"]["epochs"] == 10
    assert "a share of 13 steps" in text and config["optim"]["warmup_steps"] == 6  # 100 images / 8, not 10 x 3 x 8


def test_numbers_of_samples_become_repeats_of_the_images_that_are_here(tmp_path: Path) -> None:
    few, fixed = images(tmp_path / "few", 2), images(tmp_path / "fixed", 2)
    concepts = [{"path": few}, {"path": fixed, "balancing": 5, "balancing_strategy": "SAMPLES"}]
    config, text = written(one_trainer(*concepts, epochs=4), tmp_path / "ot.json")
    assert [each["repeats"] for each in config["data"]["folders"]] == [2, 5]  # 4 and 10 in a pass
    assert config["train"]["epochs"] == 2  # 28 samples, as 4 epochs of 2 + 5
    assert "(balancing 5, balancing_strategy SAMPLES)" in text

    single = {"path": fixed, "balancing": 50, "balancing_strategy": "SAMPLES"}
    config, text = written(one_trainer(single, epochs=2), tmp_path / "single.json")
    assert config["train"]["epochs"] == 50  # 100 samples of 2 images
    assert "every image of the folder is used" not in text


def test_numbers_of_samples_of_absent_images_are_named(tmp_path: Path) -> None:
    concepts = [{"path": "absent"}, {"path": "away", "balancing": 5, "balancing_strategy": "SAMPLES"}]
    config, text = written(one_trainer(*concepts, epochs=4), tmp_path / "ot.json")
    assert "repeats" not in config["data"]["folders"][1] and config["train"]["epochs"] == 4
    assert "concepts[1].path away: balancing 5 SAMPLES is 5 samples an epoch" in text
