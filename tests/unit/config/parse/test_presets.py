from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import flat_types, parse
from finetune.config.parse.other_trainers import ELSEWHERE, counterparts
from finetune.config.parse.presets import ACCELERATE_CONFIGS, PRESETS, carried, find_accelerate_config, find_preset
from finetune.config.parse.recipe_options import preset_of
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig

REQUIRED = ("--model.source", "model", "--data.folder", "images", "--output.folder", "out")


def test_presets_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("sd15_lora_style", "sd15_lora_style.yaml"):
        config = parse(LoRATrainConfig, ["--config", given, *REQUIRED], program="test", find_file=find_preset)
        assert config.model.family == "sd"


def test_a_file_of_that_name_wins_over_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sd15_lora_style.yaml").write_text("seed: 5")
    assert find_preset("sd15_lora_style.yaml") == Path("sd15_lora_style.yaml")
    assert find_preset("sd15_lora_style").parent == PRESETS


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("recipes/configs/sd15_lora_style.yaml", "--config sd15_lora_style"),  # from a folder without a checkout
        ("sd15_lora_stile", "Did you mean sd15_lora_style"),
        ("lora", "sdxl_lora_style"),
    ],
)
def test_another_name_is_refused_with_what_there_is(
    given: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="config: no file") as caught:
        find_preset(given)
    assert word in str(caught.value)


def test_what_is_not_a_preset_is_called_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for given, words in (("cpu", "--config_file"), ("run", "got a folder, run"), ("", "got nothing")):
        with pytest.raises(ValueError, match=words):
            find_preset(given)
    (tmp_path / "run" / "config.yaml").write_text("seed: 5")
    with pytest.raises(ValueError, match=r"--config run/config\.yaml"):
        find_preset("run")
    with pytest.raises(ValueError, match=r"cpu\.yaml is a config of Accelerate.*--config_file"):
        preset_of(LoRATrainConfig, "recipes.lora", print)(str(find_accelerate_config("cpu")))


def test_configs_of_accelerate_are_found_by_name() -> None:
    assert set(carried(ACCELERATE_CONFIGS)) >= {"cpu", "single_gpu", "multi_gpu", "fsdp2", "multi_node"}
    assert find_accelerate_config("cpu").is_file() and find_accelerate_config("cpu.yaml").is_file()
    with pytest.raises(ValueError, match="single_gpu"):
        find_accelerate_config("gpu")


def test_options_of_other_trainers_lead_to_options_that_exist() -> None:
    kinds = (LoRATrainConfig, FullTrainConfig, TextualInversionTrainConfig, DreamBoothTrainConfig)
    known = {key for kind in kinds for key in flat_types(kind)}
    assert set(counterparts().values()) <= known
    assert not (counterparts().keys() | ELSEWHERE.keys()) & (known - {"train.steps"})
