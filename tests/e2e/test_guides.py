"""Commands of guides and of recipes' docstrings, with a small model."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import flat_types, parse, read_flags
from finetune.config.parse.presets import find_preset
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig
from finetune.evaluate.command import parse_evaluation
from finetune.models.loading.single_file import published_folder
from tests.support.guides import FAST, GUIDES, ROOT, command_with, commands, run_command
from tests.tiny.sd import save_pictures, save_pipeline

CONFIGS = {
    "dreambooth": DreamBoothTrainConfig,
    "lora": LoRATrainConfig,
    "full": FullTrainConfig,
    "pretrain": PretrainConfig,
    "textual_inversion": TextualInversionTrainConfig,
}
"""The options of each recipe."""


def stand_ins(tmp_path: Path) -> dict[str, str]:
    return {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(save_pipeline(tmp_path / "model", size="micro")),
        "accelerate_configs/single_gpu.yaml": "accelerate_configs/cpu.yaml",
        "prepared/ink": str(tmp_path / "images"),
        "my_dog": str(tmp_path / "images"),
        "runs/ink-word": str(tmp_path / "run"),
        "runs/dog": str(tmp_path / "run"),
    }


@pytest.mark.slow
def test_a_new_word_as_the_guide_says(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", count=8, size=64)
    small = [*FAST.split(), "--cache.folder", str(tmp_path / "cache")]
    words = stand_ins(tmp_path) | {"ink": "red"}  # the tiny tokenizer knows one word for red
    run_command(command_with("tokens.md", "recipes.textual_inversion"), words, small)
    embeddings = tmp_path / "run" / "export" / "embeddings"
    assert (embeddings / "ink-style.safetensors").exists()
    assert (embeddings / "ink-style" / "learned_embeds.safetensors").exists()


@pytest.mark.slow
def test_dreambooth_as_the_guide_says(tmp_path: Path) -> None:
    (save_pictures(tmp_path / "images", count=3, size=64) / "metadata.jsonl").unlink()
    small = f"--prior.num_pictures 3 --prior.num_inference_steps 1 --cache.folder {tmp_path / 'cache'} {FAST}".split()
    run_command(command_with("dreambooth.md", "doctor"), stand_ins(tmp_path), [])
    run_command(command_with("dreambooth.md", "recipes.dreambooth"), stand_ins(tmp_path), small)
    assert len(list((tmp_path / "cache").glob("class_pictures/*/*.png"))) == 3
    assert (tmp_path / "run" / "export" / "run.safetensors").exists()


def test_a_plan_as_the_guide_says(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", count=8, size=64)
    run_command(command_with("methods.md", "plan"), stand_ins(tmp_path), ["--cache.folder", str(tmp_path / "cache")])


def test_the_base_models_are_known_by_id_preset_and_family() -> None:
    text = (ROOT / "docs" / "families.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and "--model.source" in line]
    typed = [shlex.split(row.split("`")[1]) for row in rows]
    typed += [command for command in commands(text) if command[0] == "python"]
    assert len(rows) >= 7 and all(re.search(r"about \d+(\.\d)? GB", row) for row in rows)
    for words in typed:
        given, found = read_flags(words[words.index("recipes.lora") + 1 :], flat_types(LoRATrainConfig))
        assert found == [], words
        preset = find_preset(given.pop("config")[0])
        options = words[words.index("recipes.lora") + 3 :]
        if "--data.folder" not in options:
            options += ["--data.folder", "prepared/ink", "--output.folder", "runs/ink"]
        config = parse(LoRATrainConfig, ["--config", str(preset), *options], program="t")
        assert config.model.family is not None and (ROOT / "recipes" / "configs").samefile(preset.parent)
        if not config.model.source.endswith(".safetensors"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", config.model.source)
    fetched = [command[2] for command in commands(text) if command[:2] == ["hf", "download"]]
    assert fetched == [published_folder("xl_base"), published_folder("xl_base", "v_prediction")]


def check_options(words: list[str]) -> None:
    place = next(place for place, word in enumerate(words) if word.startswith("recipes."))
    types = flat_types(CONFIGS[words[place].removeprefix("recipes.")])
    given, found = read_flags(words[place + 1 :], types)
    assert found == [], words
    assert given.keys() - {"config"} <= types.keys()
    assert find_preset(given["config"][0]).exists()
    if "--config_file" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).exists()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_the_recipes_know_the_options_of_the_guides(guide: Path) -> None:
    for command in commands(guide.read_text()):
        if "recipes." in " ".join(command) and "--config" in command:
            check_options(command)


def test_the_commands_of_evaluation_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ink-200.safetensors", "ink-400.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "runs" / "ink").mkdir(parents=True)
    (tmp_path / "runs" / "ink" / "config.yaml").write_text("model: {source: base}\ndata: {folder: ink}\n")
    found = commands((ROOT / "docs" / "evaluation.md").read_text())
    of_run, of_files = [command for command in found if command[:2] == ["finetune", "evaluate"]]
    assert parse_evaluation(of_run[2:]).data.folder == "ink"
    assert len(parse_evaluation(of_files[2:]).targets) == 2


@pytest.mark.parametrize("recipe", CONFIGS)
def test_the_command_in_a_recipes_docstring_parses(recipe: str) -> None:
    module = importlib.import_module(f"recipes.{recipe}")
    assert module.__doc__ is not None
    line = next(part for part in module.__doc__.split("\n\n") if "accelerate launch" in part).replace("\\\n", " ")
    check_options(shlex.split(line))
