import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from datasets_prep.captions.tags import tags_of
from datasets_prep.config import LintConfig
from datasets_prep.lint.checks import estimated_tokens, is_file_name, lint, token_counter
from datasets_prep.lint.phrases import shared_phrases
from datasets_prep.lint.words import contradictions, style_words
from datasets_prep.records import LintMark

SHIPPED = Path(__file__).parents[4] / "finetune" / "assets" / "pictograms"
GOOD = {
    "a.png": ("A red cross on white paper, seen from above.",),
    "b.png": ("Two dogs run along the beach.", "dogs, beach, running"),
    "c.png": ("An old man's house; its windows are café-blue at 20:30.",),
}


def marks(
    captions: Mapping[str, Sequence[str] | str], trigger: str | None = None, **options: Any
) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    rows = [(source, (texts,) if isinstance(texts, str) else tuple(texts)) for source, texts in captions.items()]
    config = LintConfig(**options)
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for mark in lint(rows, config, trigger, token_counter(config)):
        found.setdefault(mark.kind, []).append((mark.detail, mark.sources))
    return found


def test_good_captions_get_no_mark() -> None:
    assert marks(GOOD) == {}
    assert marks(GOOD, is_style_set=True) == {}


def test_empty_captions_are_named() -> None:
    assert marks(GOOD | {"d.png": (), "e.png": "  "}) == {"empty caption": [("", ("d.png", "e.png"))]}


def test_a_missing_trigger_is_named_and_a_part_of_a_word_is_none() -> None:
    found = marks({"a.png": "an inky dog", "b.png": "a dog, Ink", "c.png": ("ink cat", "cat")}, trigger="ink")
    assert found == {"trigger missing": [("ink", ("a.png", "c.png"))]}


def test_long_captions_are_named_as_estimated_without_a_tokenizer() -> None:
    long = "word " * 90
    [(detail, sources)] = marks(GOOD | {"d.png": ("short", long)})["longer than 75 tokens"]
    assert sources == ("d.png",) and "90 tokens, estimated" in detail
    assert marks(GOOD | {"d.png": long}, max_tokens=90) == {}


def test_a_named_tokenizer_counts() -> None:
    found = marks({"d.png": "circle " * 80}, tokenizer=str(SHIPPED))
    assert found["longer than 75 tokens"] == [("up to 80 tokens", ("d.png",))]
    assert marks({"d.png": "circle " * 75}, tokenizer=str(SHIPPED)) == {}


def test_tokens_are_estimated_by_the_rule() -> None:
    counts = {"a red cross": 3, "a cross, on 25 m.": 8, "photography": 2, "天空": 4, "größe": 3, "don't": 1, "": 0}
    assert {text: estimated_tokens(text) for text in counts} == counts


def phrases(captions: Sequence[str], share: float = 0.2, trigger: str | None = None) -> list[tuple[str, int]]:
    found = shared_phrases([(caption,) for caption in captions], share, trigger)
    return [(phrase, len(indices)) for phrase, indices in found]


def test_a_phrase_of_many_captions_is_named_at_its_longest() -> None:
    words = [f"w{number}" for number in range(400)]
    captions = [
        f"{words[8 * number]} a high quality photo of a {words[8 * number + 1]} thing {words[8 * number + 2]}"
        for number in range(10)
    ]
    captions += [" ".join(words[8 * number + 100 : 8 * number + 108]) for number in range(30)]
    assert phrases(captions) == [("a high quality photo of a", 10)]
    assert phrases(captions, share=0.25) == []
    found = marks({f"{number:02}.png": caption for number, caption in enumerate(captions)})
    [(detail, sources)] = found["phrase in many captions"]
    assert detail == "a high quality photo of a (10 of 40)" and sources == tuple(f"{n:02}.png" for n in range(10))


def test_fewer_than_five_images_share_no_boilerplate() -> None:
    assert phrases(["one two three four"] * 4) == []
    assert phrases(["one two three four"] * 5) == [("one two three four", 5)]


def test_a_short_phrase_is_named_beside_a_longer_one_only_if_it_is_more_frequent() -> None:
    captions = ["seen in soft morning light today"] * 10 + [f"x{n} in soft morning light y{n}" for n in range(10)]
    assert phrases(captions) == [("in soft morning light", 20), ("seen in soft morning light today", 10)]


def test_the_trigger_is_not_boilerplate_and_ends_phrases() -> None:
    captions = [f"n{number} in the ink wash style of old" for number in range(10)]
    assert phrases(captions, trigger="the ink wash style") == []
    assert phrases(captions) == [("in the ink wash style of old", 10)]


def test_phrases_of_tag_lists_do_not_cross_commas() -> None:
    assert phrases([f"1girl, solo, long hair, smile, tag{number}" for number in range(9)]) == []


def test_a_phrase_twice_in_an_image_counts_once() -> None:
    assert phrases(["one two three four. Then one two three four"] * 4) == []


@pytest.mark.parametrize(
    ("caption", "tags"),
    [
        ("1girl, long_hair, Solo", ["1girl", "long hair", "solo"]),
        ("A dog on the beach, next to a large red boat, with people", None),
        ("a dog", None),
        ("One. Two, three, four", None),
    ],
)
def test_tag_lists_are_told_from_sentences(caption: str, tags: list[str] | None) -> None:
    assert tags_of(caption) == tags


def test_duplicate_tags_are_named() -> None:
    found = marks({"a.png": "dog, grass, dog, red_ball, red ball", "b.png": "dog, cat, bird"})
    assert found == {"tag twice in a caption": [("dog", ("a.png",)), ("red ball", ("a.png",))]}


@pytest.mark.parametrize(
    ("tags", "pairs"),
    [
        (["1girl", "2girls", "smile"], ["1girl and 2girls"]),
        (["day", "beach", "night"], ["day and night"]),
        (["indoors", "outdoors"], ["indoors and outdoors"]),
        (["monochrome", "solo", "blue eyes"], ["monochrome and blue eyes"]),
        (["monochrome", "spot color", "blue eyes"], []),
        (["greyscale", "blue theme"], []),
        (["2girls", "multiple girls", "long hair", "short hair"], []),
        (["solo", "1girl", "long hair", "short hair"], ["long hair and short hair"]),
        (["1girl", "1boy", "solo focus"], []),
        (["solo", "2girls"], ["solo and 2girls"]),
        (["no humans", "scenery", "1girl"], ["no humans and 1girl"]),
    ],
)
def test_contradictory_tags_are_named_and_others_not(tags: list[str], pairs: list[str]) -> None:
    assert contradictions(tags) == pairs


def test_the_same_caption_on_several_images_is_named() -> None:
    found = marks({"a.png": "A dog.", "b.png": ("a  dog.", "other"), "c.png": ("A cat.", "A cat.")})
    assert found == {"same caption on several images": [("A dog.", ("a.png", "b.png"))]}


def test_style_words_matter_in_a_style_set_only_and_the_trigger_is_wanted() -> None:
    captions = {
        "a.png": "a dog, Watercolor, ink drawing",
        "b.png": "a cat in the style of van Gogh",
        "c.png": "waterway",
    }
    found = marks(captions, is_style_set=True)
    assert dict(found["style words in a style set"]) == {
        "watercolor": ("a.png",),
        "ink drawing": ("a.png",),
        "in the style of van gogh": ("b.png",),
    }
    assert marks(captions) == {}
    assert style_words("a dog, ink drawing", "ink drawing") == []


LEFTOVERS = {
    "refusal of a captioner": ("I'm sorry, but I can't help with that.",),
    "web address": ("see https://example.com/x", "dog from shop.example.com"),
    "file name as caption": ("IMG_2034.JPG", "DSC_0123", "20240117-183022"),
    "broken characters": ("cafÃ© at night", "a dogâ€™s ball", "a \ufffd dog", "a\x00b"),
    "markup": ("a <b>bold</b> dog", "a dog &amp; a cat", "a dog<|im_end|>"),
    "talks of the image itself": ("The image shows a dog.",),
}


@pytest.mark.parametrize(("caption", "kind"), [(each, kind) for kind in LEFTOVERS for each in LEFTOVERS[kind]])
def test_leftovers_are_named(caption: str, kind: str) -> None:
    found = marks({"x.png": caption})
    assert list(found) == [kind] and found[kind][0][1] == ("x.png",)


def test_a_caption_that_is_its_files_name_is_named_unless_it_is_words() -> None:
    assert is_file_name("holiday_07_b", "trip/holiday_07_b.png")
    assert not is_file_name("dog", "trip/dog.png")
    assert not is_file_name("a dog.", "trip/a.png")


def test_letters_of_other_languages_are_not_broken() -> None:
    good = {"a.png": "São Paulo, ÂGE, pâté", "b.png": "ein großer Hund", "c.png": "犬と猫がいる", "d.png": "الكلب"}
    assert marks(good) == {}


def test_beyond_thirty_details_the_rest_is_one_mark() -> None:
    captions = {f"{n:03}{side}.png": f"caption number {n}" for n in range(100) for side in "ab"}
    found = marks(captions)["same caption on several images"]
    assert len(found) == 31 and found[-1][0].startswith("70 others, e.g. caption number ")
    assert len(found[-1][1]) == 140


def messy(count: int) -> list[tuple[str, tuple[str, ...]]]:
    chance = random.Random(0)
    words = [f"word{number}" for number in range(3000)]
    rows = []
    for number in range(count):
        text = " ".join(chance.choices(words, k=20))
        if number % 3 == 0:
            text = "this is a high quality picture of " + text
        rows.append((f"{number:07}.png", (text, ", ".join(chance.choices(words[:50], k=8)))))
    return rows


def test_marks_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = messy(300)
    other = rows.copy()
    random.Random(1).shuffle(other)
    assert lint(rows, LintConfig(), "ink", estimated_tokens) == lint(other, LintConfig(), "ink", estimated_tokens)
    assert isinstance(lint(rows, LintConfig(), "ink", estimated_tokens)[0], LintMark)


def test_large_sets_are_sampled_for_phrases_but_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [texts for _, texts in messy(1200)]
    whole = shared_phrases(captions, 0.2, None)
    monkeypatch.setattr("datasets_prep.lint.phrases.SAMPLE", 200)
    assert shared_phrases(captions, 0.2, None) == whole
    assert [(phrase, len(indices)) for phrase, indices in whole] == [("this is a high quality picture of", 400)]


def test_work_grows_with_the_captions_and_no_faster() -> None:
    def num_calls(count: int) -> int:
        rows, calls = messy(count), []
        sys.setprofile(lambda *_: calls.append(None))
        try:
            lint(rows, LintConfig(), None, estimated_tokens)
        finally:
            sys.setprofile(None)
        return len(calls)

    assert num_calls(1200) < 8 * num_calls(200)
