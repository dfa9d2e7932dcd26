import contextlib

import pytest

from finetune.config.parse.command_line import flat_types
from finetune.config.parse.recipe_options import RECIPES
from finetune.config.trainers.tables import Row, Table, all_tables
from finetune.config.trainers.values import CONVERSIONS, DEFERRED, HANDLED, NoCounterpartError, convert_value

OURS = {key for kind in RECIPES.values() for key in flat_types(kind)}
NAMED = {*CONVERSIONS, *DEFERRED, HANDLED, "betas", "prefix", "suffix", ""}
ROWS = [(each, key, row) for each in all_tables() for key, rows in each.options.items() for row in rows]


def targets(row: Row) -> set[str]:
    found = {row.to} - {None} | set(row.also)
    parts = [*(row.values or {}).values(), row.default]
    return found.union(*(part for part in parts if isinstance(part, dict)))


def test_every_row_leads_to_options_that_exist_by_conversions_that_exist() -> None:
    assert len(ROWS) > 800
    for each, key, row in ROWS:
        assert targets(row) <= OURS, (each.name, key)
        assert row.conversion in NAMED, (each.name, key)


def test_every_row_says_something() -> None:
    for each, key, row in ROWS:
        says = row.none or row.launch or row.differs or row.conversion
        assert targets(row) or says or row.values is not None, (each.name, key)


def test_conditions_are_about_options_of_the_same_trainer() -> None:
    for each, key, row in ROWS:
        for other in [*row.when, *([row.unless] if row.unless else []), *each.flow]:
            assert each.rows(other), (each.name, key, other)


@pytest.mark.parametrize("each", all_tables(), ids=lambda each: each.name)
def test_defaults_are_values_that_the_row_understands(each: Table) -> None:
    for key, rows in each.options.items():
        for row in rows:
            if row.default is None or isinstance(row.default, dict) or row.conversion in DEFERRED or row.launch:
                continue
            with contextlib.suppress(*((NoCounterpartError,) if row.none else ())):  # their default may have none
                assert convert_value(row, row.default, {}) is not None, key


@pytest.mark.parametrize(
    ("conversion", "theirs", "ours"),
    [
        ("resolution", "1024,1024", 1024),
        ("resolution", [768, 512], 640),  # the area of 768x512 is that of a square of 627 pixels
        ("resolutions", "512, 768", 768),
        ("area", 1.05, 1024),
        ("area", "1024", 1024),
        ("square", "1024x1024", 1024),
        ("not", "true", False),
        ("before", 1000, 999),
        ("thousandths_before", 0.9, 899),
        ("plus_one", 0.5, 1.5),
        ("stem", "C:\\models\\ink.safetensors", "ink"),
        ("trackers", "all", ["tensorboard", "wandb"]),
        ("trackers", "none", []),
        ("buckets", "1024x1024;672x1568", 1568 / 672),
        ("prefix", "sks", "sks {caption}"),
    ],
)
def test_values_keep_their_meaning(conversion: str, theirs: object, ours: object) -> None:
    assert convert_value(Row("data.resolution", conversion), theirs, {}) == {"data.resolution": ours}


def test_a_value_that_is_not_understood_is_said_not_guessed() -> None:
    with pytest.raises(NoCounterpartError, match="large"):
        convert_value(Row("data.resolution", "resolution"), "large", {})
    with pytest.raises(NoCounterpartError, match=r"optim\.name"):
        convert_value(Row("optim.name", values={"adamw": "adamw"}), "Lamb", {})
