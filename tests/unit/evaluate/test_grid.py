from dataclasses import replace

import pytest

from finetune.config.evaluate import GridConfig
from finetune.data.manifest import Record
from finetune.evaluate.grid import make_grid, without_template, words_of

CAPTIONS = ("red apple", "two cats", "a rocket", "a pear", "old guitar", "a shed")
RECORDS = [Record(f"{n}.png", (text,), 8, 8, f"{n * 7 % 10:064d}") for n, text in enumerate(CAPTIONS)]
CONFIG = GridConfig(prompts=("a lamp, ink style",), num_prompts=2, num_seeds=3)


def test_the_four_kinds_are_derived_from_dataset_and_options() -> None:
    grid = make_grid(RECORDS, {4, 5}, CONFIG, "{caption}, ink style")
    texts = {kind: [grid.prompts[n].text for n in grid.of_kinds(kind)] for kind in ("user", "held_out")}
    assert texts == {
        "user": ["a lamp, ink style"],
        "held_out": ["a shed, ink style", "old guitar, ink style"],  # in the order of their content
    }
    assert [grid.prompts[n].reference for n in grid.of_kinds("held_out")] == ["5.png", "4.png"]
    assert [grid.prompts[n].text for n in grid.of_kinds("new_content")] == [
        "alarm clock, ink style",  # "red apple", "rocket" and "cat" are in training captions
        "sailboat, ink style",
    ]
    assert [grid.prompts[n].text for n in grid.of_kinds("neutral")] == ["guitar", "umbrella"]
    assert grid.seeds == (0, 1, 2) and grid.has_trigger
    assert grid.prompts[0].content == "a lamp"


def test_what_a_user_asks_for_is_not_drawn_twice() -> None:
    own = replace(CONFIG, prompts=("sailboat, ink",))
    grid = make_grid(RECORDS, set(), own, "{caption}, ink", ("alarm clock, ink", "sailboat, ink"))
    texts = [prompt.text for prompt in grid.prompts]
    assert texts[:2] == ["sailboat, ink", "alarm clock, ink"] and len(set(texts)) == len(texts)
    assert not {"sailboat", "alarm clock"} & set(texts)


def test_no_new_content_has_a_word_of_a_training_caption() -> None:
    grid = make_grid(RECORDS, set(), replace(CONFIG, num_prompts=8), "{caption}")
    trained = {word for text in CAPTIONS for word in words_of(text)}
    assert all(trained.isdisjoint(words_of(grid.prompts[n].content)) for n in grid.of_kinds("new_content", "neutral"))
    assert len(grid.of_kinds("new_content")) == 8 and grid.of_kinds("held_out") == [] and not grid.has_trigger


def test_the_order_of_records_changes_nothing() -> None:
    grid = make_grid(RECORDS, {4, 5}, CONFIG, "{caption}")
    again = make_grid(RECORDS[::-1], {0, 1}, CONFIG, "{caption}")
    assert grid.fingerprint == again.fingerprint
    assert grid.fingerprint != make_grid(RECORDS, {4}, CONFIG, "{caption}").fingerprint


def test_a_subject_is_drawn_in_places() -> None:
    config = replace(CONFIG, subject="a photo of sks dog", prompts=())
    grid = make_grid(RECORDS, set(), config, "{caption}")
    assert [grid.prompts[n].text for n in grid.of_kinds("new_content")] == [
        "a photo of sks dog on a beach",
        "a photo of sks dog in the snow",
    ]
    assert grid.has_trigger and all("sks" not in grid.prompts[n].text for n in grid.of_kinds("neutral"))


def test_own_contents_that_are_all_in_the_training_set_are_refused() -> None:
    with pytest.raises(ValueError, match=r"grid.contents: 1 of 3 things .* expected 4"):
        make_grid(RECORDS, set(), replace(CONFIG, contents=("apple", "pears", "a boat")), "{caption}")


def test_frequent_captions_of_training_images_come_first() -> None:
    records = [*RECORDS, replace(RECORDS[2], file_name="again.png", sha256="a" * 64)]
    assert make_grid(records, {4, 5}, CONFIG, "{caption}").captions[0] == "a rocket"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ink of a cat.", "a cat"), ("ink of .", "ink of ."), ("a cat", "a cat"), ("ink of a", "ink of a")],
)
def test_a_template_is_taken_off_where_it_is(text: str, expected: str) -> None:
    assert without_template(text, "ink of {caption}.") == expected
