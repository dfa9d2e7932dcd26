from pathlib import Path

import pytest

from finetune.config.parse.dump import dump
from finetune.config.parse.recipe_options import RECIPES, parse_recipe
from finetune.report.options import command_of, differences

GIVEN = ["--model.source", "m", "--data.folder", "d", "--output.folder", "runs/ink"]


def run(folder: Path, recipe: str, *options: str, log: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    config, _ = parse_recipe(RECIPES[recipe], [*options, *GIVEN], recipe, lambda text: None)
    (folder / "config.yaml").write_text(dump(config))
    if log is not None:
        (folder / "run.log").write_text(f"=== 2026-11-28 22:41:44 UTC {log}\n10 images\n")
    return folder


def keys(folder: Path) -> dict[str, tuple[str, str]]:
    found = differences(folder)
    assert found is not None
    return {
        each.key: (each.before, each.now) for each in found.found if each.key not in ("model.source", "data.folder")
    }


def test_only_what_differs_from_the_preset_is_listed(tmp_path: Path) -> None:
    folder = run(
        tmp_path / "run",
        "recipes.lora",
        *("--config", "demo", "--optim.lr", "2e-4", "--lora.targets", "to_q", "to_k"),
        log="/home/me/recipes/lora.py --config demo --optim.lr 2e-4",
    )
    found = differences(folder)
    assert found is not None and found.against == "the preset demo"
    assert set(keys(folder)) == {"optim.lr", "lora.targets"}
    assert keys(folder)["optim.lr"][1] == "0.0002" and keys(folder)["lora.targets"][1] == "to_q, to_k"


def test_numbers_that_are_spelled_in_another_way_do_not_differ(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("optim:\n  lr: 1e-4\ndata:\n  flip: yes\n")  # YAML reads 1e-4 as text
    folder = run(tmp_path / "run", "recipes.lora", "--config", str(preset), log=f"lora.py --config {preset}")
    assert keys(folder) == {}


def test_without_a_log_the_defaults_are_compared_with(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "recipes.full", "--train.steps", "77")
    found = differences(folder)
    assert found is not None and found.against == "the defaults"
    assert set(keys(folder)) == {"train.steps"} and keys(folder)["train.steps"][1] == "77"


def test_a_preset_that_is_gone_is_said(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "recipes.lora", log="lora.py --config gone.yaml")
    found = differences(folder)
    assert found is not None and "gone.yaml is not there any more" in found.against and keys(folder) == {}


def test_a_prompt_over_several_lines_does_not_hide_the_command(tmp_path: Path) -> None:
    tmp_path.joinpath("run.log").write_text(
        "=== 2026-11-28 22:41:44 UTC lora.py --a 'one\ntwo' --config demo\nmore 'x\n"
    )
    assert command_of(tmp_path) == ["lora.py", "--a", "one\ntwo", "--config", "demo"]


@pytest.mark.parametrize("log", ["", "nothing\n", "=== 2026-11-28 22:41:44 UTC 'open\n" * 3])
def test_a_log_of_another_kind_has_no_command(tmp_path: Path, log: str) -> None:
    tmp_path.joinpath("run.log").write_text(log)
    assert command_of(tmp_path) == [] or log.count("'") > 1


def test_a_folder_without_options_has_no_differences(tmp_path: Path) -> None:
    assert differences(tmp_path) is None
