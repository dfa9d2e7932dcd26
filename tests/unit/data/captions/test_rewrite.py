from pathlib import Path

import pytest

from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.rewrite import CaptionEdits, TooManyVariantsError, expanded
from finetune.data.manifest import read_manifest
from tests.support.images import picture, write


@pytest.mark.parametrize(
    ("text", "variants"),
    [
        ("a {red|blue} cat", ("a red cat", "a blue cat")),
        ("a {2::red|0.5::{dark|light} blue} cat", ("a red cat", "a dark blue cat", "a light blue cat")),
        ("cat, {|sitting}, day", ("cat, day", "cat, sitting, day")),
        ("a (red:1.2) cat, ((big)), (one, two:0.8)", ("a red cat, big, one, two",)),
        (r"mio \(series\), 1girl", ("mio (series), 1girl",)),
        (r"\{a|b\} and (x \(y\):1.3)", ("{a|b} and x (y)",)),
        ("a cat (16:9), {plain}, (asleep) ^_^", ("a cat (16:9), {plain}, (asleep) ^_^",)),
        ("{2$$a|b}", ("{2$$a|b}",)),
        ("<p>1girl,<br/> solo &amp; a &#39;red&#39;&nbsp;cat</p>", ("1girl, solo & a 'red' cat",)),
        ('"a {red|blue} cat",', ("a red cat", "a blue cat")),
        ("“a cat”", ("a cat",)),
        ('"open" and "shut"', ('"open" and "shut"',)),
        ("a <ink> cat, <b-token>, x < y > z, R&D", ("a <ink> cat, <b-token>, x < y > z, R&D",)),
    ],
)
def test_choices_weights_and_escapes_are_expanded(text: str, variants: tuple[str, ...]) -> None:
    assert expanded(text) == variants


def test_more_choices_than_are_encoded_are_refused(tmp_path: Path) -> None:
    many = " ".join(["{a|b|c}"] * 5)
    with pytest.raises(TooManyVariantsError):
        expanded(many)
    folder = write(tmp_path, {"x.png": picture(), "x.txt": many})
    with pytest.raises(ValueError, match="too many choices to expand"):
        read_manifest(folder, reading=CaptionReading(edits=CaptionEdits(expand=True)))


@pytest.mark.parametrize(
    ("caption", "result"),
    [
        ("a [trigger] cat", "a sks cat"),
        ("[Name], [trigger word]", "sks, sks"),
        ("photo of SKS, day", "photo of SKS, day"),
        ("a sksy cat", "sks, a sksy cat"),
        ("", "sks"),
    ],
)
def test_the_trigger_replaces_its_placeholders_or_comes_first(caption: str, result: str) -> None:
    assert CaptionEdits(trigger="sks").applied((caption,)) == (result,)


def test_words_around_captions_bring_a_space_where_they_need_one() -> None:
    assert CaptionEdits(prefix="ink,", suffix=", day").applied(("a cat", "a dog")) == (
        "ink, a cat, day",
        "ink, a dog, day",
    )
    assert CaptionEdits(prefix="ink ", suffix="day").applied(("a cat", "")) == ("ink a cat day", "ink day")


def test_captions_are_expanded_only_where_asked(tmp_path: Path) -> None:
    folder = write(tmp_path, {"x.png": picture(), "x.txt": "a {red|blue} cat, [trigger]"})
    plain = read_manifest(folder)
    assert plain.records[0].captions == ("a {red|blue} cat, [trigger]",)
    assert any("--data.expand_syntax true" in text for text in plain.warnings)
    assert any("--data.trigger WORDS" in text for text in plain.warnings)
    manifest = read_manifest(folder, reading=CaptionReading(edits=CaptionEdits(expand=True, trigger="sks")))
    assert manifest.records[0].captions == ("a red cat, sks", "a blue cat, sks") and manifest.warnings == ()
