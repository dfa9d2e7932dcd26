from pathlib import Path

import pytest

from finetune.config.parse.command_line import parse_given
from finetune.config.parse.presets import PRESETS, carried
from finetune.config.parse.recipe_options import RECIPES, made_for, other_recipes_option, parse_recipe, preset_of
from finetune.config.recipes import LoRATrainConfig
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family

NEEDED = ["--model.source", "m", "--data.folder", "d", "--output.folder", "o"]


def find(given: str, program: str) -> list[str]:
    said: list[str] = []
    preset_of(RECIPES[program], program, said.append)(given)
    return said


@pytest.mark.parametrize("name", carried(PRESETS))
def test_every_preset_fits_its_own_recipe(name: str) -> None:
    recipe = made_for(carried(PRESETS)[name]) or "recipes.lora"
    assert find(name, recipe) == []


@pytest.mark.parametrize(
    ("name", "program", "recipe"),
    [
        ("sd15_lora_style", "recipes.full", "recipes.lora"),
        ("sd15_dreambooth_full", "recipes.lora", "recipes.dreambooth"),
        ("sd15_textual_inversion", "recipes.full", "recipes.textual_inversion"),
        ("pretrain_icons", "recipes.full", "recipes.pretrain"),
    ],
)
def test_a_preset_with_options_of_another_recipe_is_refused(name: str, program: str, recipe: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.yaml is for {recipe}, not for {program}.*-m {recipe}"):
        find(name, program)


def test_a_preset_of_another_recipe_that_fits_all_the_same_is_warned_of(tmp_path: Path) -> None:
    (warning,) = find("sd15_full", "recipes.lora")
    assert "sd15_full is a preset of recipes.full" in warning and "sd15_lora_style" in warning
    (tmp_path / "sd15_full.yaml").write_text("seed: 1")
    assert find(str(tmp_path / "sd15_full.yaml"), "recipes.lora") == []
    (tmp_path / "run.yaml").write_text("lora:\n  rank: 4\n")  # the config.yaml of a run
    with pytest.raises(ValueError, match=r"is for recipes\.lora"):
        find(str(tmp_path / "run.yaml"), "recipes.full")


@pytest.mark.parametrize(("steps", "warmup"), [(4, 0), (10, 0), (50, 1), (51, 50)])
def test_a_presets_own_warmup_follows_fewer_steps_and_it_is_said(steps: int, warmup: int) -> None:
    said: list[str] = []
    arguments = [*NEEDED, "--config", "sd15_lora_style", f"--train.steps={steps}"]
    config, _ = parse_recipe(LoRATrainConfig, arguments, "recipes.lora", said.append)
    assert config.optim.warmup_steps == warmup
    assert said == [] if warmup == 50 else "sd15_lora_style has 50" in said[0] and f"; {warmup} is used" in said[0]


def test_a_warmup_that_the_user_gives_is_refused_with_one_that_fits(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "own.yaml").write_text("train: {steps: 400}\noptim: {warmup_steps: 10}\n")
    for given in (["--config", "demo", "--optim.warmup_steps", "10"], ["--config", str(tmp_path / "own.yaml")]):
        with pytest.raises(ValueError, match=r"expected fewer than train.steps 4. Use --optim.warmup_steps 0, or more"):
            parse_recipe(LoRATrainConfig, [*NEEDED, *given, "--train.steps", "4"], "recipes.lora", said.append)
    assert said == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--train", "It is a section with options such as --train.steps"),
        ("--instance_prompt", "It is called instance.prompt in recipes.dreambooth, and recipes.lora does not have it"),
        ("--placeholder_token", "It is called tokens.names here"),
    ],
)
def test_sections_and_other_trainers_names_are_told_what_they_are_here(option: str, words: str) -> None:
    with pytest.raises(ValueError, match="no such option") as error:
        parse_recipe(LoRATrainConfig, [*NEEDED, option, "x"], "recipes.lora", print)
    assert words in str(error.value)


def test_an_option_of_another_recipe_is_not_taken_for_a_mistyped_one() -> None:
    options = {"program": "recipes.full", "elsewhere": lambda key: other_recipes_option(key, "recipes.full")}
    with pytest.raises(ValueError, match=r"recipes\.full does not .*recipes\.lora and recipes\.dreambooth do"):
        parse_given(RECIPES["recipes.full"], ["--lora.rank", "8"], **options)


def test_the_family_of_a_preset_that_is_not_the_models_leads_to_presets_that_are(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"family is sd: use a preset .*sd15_lora_style.*--model.family sd"):
        find_family(ModelSource(str(tiny_model)), "sdxl")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--learning_rate 1e-4", "It is called optim.lr here."),
        ("--network_dim 32", "It is called lora.rank here."),
        ("--max_train_steps 100", "It is called train.steps here."),
        ("--resolution 512,512", "It is called data.resolution here. Write --data.resolution 512."),
        ("--network_train_unet_only", "Write --train.text_encoder false."),
        ("--lr_scheduler cosine_with_restarts", "Write --optim.schedule cosine."),
        ("--xformers", "Omit it: attention is always torch's"),
        ("--clip_skip 2", "Omit it: the text encoder's layer"),
        ("--mixed_precision bf16", "give --mixed_precision before -m"),
        ("--optimizer_type Lamb", "optim.name is adamw, adamw8bit"),
        ("--save_every_n_epochs 1", "It is called checkpoint.every here. It counts steps, not epochs"),
        ("--save_last_n_epochs 2", "It is called checkpoint.keep here. It counts checkpoints, not epochs."),
        ("--lr_warmup_steps 0.1", "It is called optim.warmup_steps here. It counts steps"),
        ("--dataset_config ds.toml", "Use: finetune import ds.toml --output NEW.yaml"),
        ("--data_backend_config b.json", "a file of SimpleTuner: import the config that names it, finetune import"),
        ("train.steps=3", "Write --train.steps=3"),
    ],
)
def test_the_usual_words_of_other_trainers_are_answered_with_ours(words: str, answer: str) -> None:
    with pytest.raises(ValueError, match=r"no such option|two hyphens") as error:
        parse_recipe(LoRATrainConfig, [*NEEDED, *words.split()], "recipes.lora", print)
    assert answer in str(error.value)
