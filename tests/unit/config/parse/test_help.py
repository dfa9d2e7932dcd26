import pytest

from finetune.config.facts import options
from finetune.config.parse.help import FIRST, NUM_FIRST, first_lines, help_texts
from finetune.config.parse.presets import PRESETS, carried, purpose
from finetune.config.parse.recipe_options import RECIPES, parse_recipe, preset_lines


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_short_help_has_the_first_options_of_a_recipe_with_their_texts(recipe: str) -> None:
    lines = list(first_lines(RECIPES[recipe], recipe))
    shown = [text.strip().removeprefix("--") for text in lines if text.startswith("  --")]
    known = {option.key for option in options(RECIPES[recipe])}
    assert shown == ["config FILE", *[key for key in FIRST if key in known][:NUM_FIRST]]
    assert {"model.source", "data.folder", "output.folder", "train.steps"} <= set(shown)
    assert "--help-all" in lines[-3] and max(map(len, lines)) <= 120


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_has_a_help_text_of_its_own(recipe: str) -> None:
    texts = help_texts(RECIPES[recipe])
    assert [option.key for option in options(RECIPES[recipe]) if not texts.get(option.key)] == []


def test_help_of_a_recipe_is_the_short_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_recipe(RECIPES["recipes.lora"], ["--help"], "recipes.lora", print)
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "--lora.rank" in printed and "--lora.dropout" not in printed


def test_every_preset_is_listed_once_below_its_recipe_with_its_purpose() -> None:
    text = "\n".join(preset_lines())
    for name, path in carried(PRESETS).items():
        assert text.count(f"  {name} ") == 1 and purpose(path) in text and len(purpose(path)) > 20
    assert text.index("recipes.dreambooth:") < text.index("sd15_dreambooth_lora") < text.index("pretrain_icons")
