from pathlib import Path

import pytest

from datasets_prep.config import PrepConfig
from finetune.config.parse.command_line import parse, read_yaml
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.config.recipes import LoRATrainConfig

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 101))
CALL = "!!python/object/apply:"
REFUSED = {
    "a hundred levels of aliases": (BOMB, "more than 16 aliases"),
    "a list in itself": ("a: &a [*a]", "holds itself"),
    "a mapping in itself": ("train: &t\n  steps: {more: *t}", "holds itself"),
    "deep lists": ("a: " + "[" * 50_000, "20 levels deep"),
    "deep sections": ("\n".join(" " * depth + "a:" for depth in range(400)), "20 levels deep"),
    "a section twice": (
        "train:\n  steps: 1\nmodel:\n  source: x\ntrain:\n  steps: 2\n",
        "train twice, again in line 5",
    ),
    "an option twice": ("train:\n  steps: 1\n  steps: 2\n", "steps twice"),
    "an option twice in a list": ("a: [{b: 1, b: 2}]", "b twice"),
    "endless values": ("a: [" + "1," * 90_000 + "]", "more than 5,000 values"),
    "endless text": ("a: " + "x" * 300_000, "characters"),
    "an endless number": ("a: " + "9" * 10_000, "not valid YAML"),
    "a date that is none": ("a: 2020-99-99", "not valid YAML"),
    "a call of code": ("a: !!python/object/apply:os.system ['touch CANARY']", "not valid YAML"),
    "code as the whole": ("!!python/object/new:os.system ['touch CANARY']", "not valid YAML"),
    "code in code": (f"a: {CALL}pathlib.Path.touch [{CALL}pathlib.Path [CANARY]]", "not valid YAML"),
    "the name of code": ("a: !!python/name:os.system", "not valid YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_options_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    text, word = REFUSED[case]
    (tmp_path / "c.yaml").write_text(text.replace("CANARY", str(tmp_path / "canary")))
    given, found = read_yaml(tmp_path / "c.yaml")
    assert given == {} and len(found) == 1
    assert found[0].startswith(f"config: {tmp_path / 'c.yaml'} ") and word in found[0] and len(found[0]) < 500
    for kind in (PrepConfig, LoRATrainConfig):
        with pytest.raises(ValueError, match="config: "):
            parse(kind, ["--config", str(tmp_path / "c.yaml")], program="test")
    assert not (tmp_path / "canary").exists()


def test_anchors_merges_and_values_that_look_alike_are_read() -> None:
    text = "base: &b {lr: 1, steps: 2}\nother: {<<: *b, steps: 3}\nlist: [a, a]\nsame: {a: {x: 1}, b: {x: 1}}\nx: x\n"
    assert load_yaml(text)["other"] == {"lr": 1, "steps": 3}
    with pytest.raises(StrictYamlError):
        load_yaml("[1")


def test_an_option_given_in_a_section_and_with_a_dot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {steps: 1}\ntrain.steps: 2\n")
    assert "train.steps: given twice" in read_yaml(tmp_path / "c.yaml")[1][0]


@pytest.mark.parametrize("arguments", [["--output", "o\udcff"], ["--\udcff", "1"], ["--config", "\udcff.yaml"]])
def test_options_that_are_not_utf8_are_refused_in_words_that_can_be_printed(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="UTF-8") as caught:
        parse(PrepConfig, ["--source", "raw", "--output", "out", *arguments], program="test")
    str(caught.value).encode("utf-8")
