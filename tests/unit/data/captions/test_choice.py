from collections import Counter

import pytest

from finetune.data.captions.choice import CaptionOptions, caption_variants, draw_caption

TAGS = "ink style, cat, red hat, sitting, window, night"


def test_a_plain_caption_is_its_only_variant() -> None:
    assert caption_variants(("a  cat, sitting",), CaptionOptions()) == ("a  cat, sitting",)


def test_the_template_surrounds_every_caption_and_braces_in_captions_stay() -> None:
    options = CaptionOptions(template="ink style, {caption}")
    assert caption_variants(("a cat", "{0} {caption}"), options) == ("ink style, a cat", "ink style, {0} {caption}")


def test_shuffling_keeps_the_first_tags_and_loses_none() -> None:
    variants = caption_variants((TAGS,), CaptionOptions(shuffle_tags=True, keep_tags=2, num_shuffles=8))
    assert len(variants) > 1
    for text in variants:
        tags = text.split(", ")
        assert tags[:2] == ["ink style", "cat"]
        assert sorted(tags) == sorted(TAGS.split(", "))


def test_shuffling_never_moves_the_words_of_the_template() -> None:
    options = CaptionOptions(shuffle_tags=True, template="trigger, {caption}, end")
    assert all(text.startswith("trigger, ") and text.endswith(", end") for text in caption_variants((TAGS,), options))


def test_shuffles_are_the_same_in_every_run() -> None:
    options = CaptionOptions(shuffle_tags=True, num_shuffles=2)
    assert caption_variants(("a, b, c, d",), options) == ("a, c, d, b", "b, c, a, d")


@pytest.mark.parametrize("caption", ["one tag", "", "kept, kept too, last", ",,,"])
def test_a_caption_with_nothing_to_shuffle_stays_as_it_is(caption: str) -> None:
    assert caption_variants((caption,), CaptionOptions(shuffle_tags=True, keep_tags=2)) == (caption,)


def test_variants_that_agree_stand_once() -> None:
    assert caption_variants(("a cat", "a cat"), CaptionOptions()) == ("a cat",)
    assert len(caption_variants(("a, b",), CaptionOptions(shuffle_tags=True, num_shuffles=50))) == 2


def test_another_separator_splits_and_joins_tags() -> None:
    options = CaptionOptions(shuffle_tags=True, tag_separator=";", num_shuffles=20)
    assert set(caption_variants(("a, b; c",), options)) == {"a, b; c", "c; a, b"}


def test_every_draw_is_a_variant_or_empty() -> None:
    options = CaptionOptions(dropout=0.25, shuffle_tags=True, keep_tags=1, num_shuffles=3, template="x {caption}")
    captions = (TAGS, "a dog, running, grass", "plain")
    allowed = {"", *caption_variants(captions, options)}
    drawn = {draw_caption(captions, options, u=u / 200, drop_u=drop_u / 20) for u in range(200) for drop_u in range(20)}
    assert drawn == allowed


def test_captions_and_their_orders_are_equally_likely() -> None:
    options = CaptionOptions(shuffle_tags=True, num_shuffles=4)
    captions = (TAGS, "plain")
    draws = Counter(draw_caption(captions, options, u=u / 8000, drop_u=0.5) for u in range(8000))
    orders = caption_variants((TAGS,), options)
    assert len(orders) == 4
    assert draws == {"plain": 4000, **dict.fromkeys(orders, 1000)}


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, 0), (0.3, 300), (1.0, 1000)])
def test_dropout_is_the_share_of_empty_prompts(dropout: float, expected: int) -> None:
    options = CaptionOptions(dropout=dropout)
    drawn = [draw_caption(("a cat",), options, u=0.0, drop_u=u / 1000) for u in range(1000)]
    assert drawn.count("") == expected


def test_the_largest_u_below_one_draws_the_last_caption() -> None:
    for number in range(1, 300):
        captions = tuple(map(str, range(number)))
        options = CaptionOptions(shuffle_tags=True, num_shuffles=number)
        assert draw_caption(captions, options, u=1 - 2**-53, drop_u=0.5) == captions[-1]
