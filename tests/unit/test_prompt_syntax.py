from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import parse
from finetune.data.manifest import read_manifest
from finetune.launch import with_prompt_warnings
from finetune.prompt_syntax import is_path, path_problems, prompt_warnings, syntax_in
from tests.support.images import A, listed


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a {red|blue} cat, [trigger]", ["{red|blue}", "[trigger]"]),
        ("an __animal__ in [filewords]", ["__animal__", "[filewords]"]),
        ("cat --w 32 --d 7", ["--w"]),
        ("cat --ar 16:9", ["--ar"]),
        ("a (red:1.2) cat", ["(red:1.2)"]),
        ("((red)) cat", ["((red))"]),
        ("cat <lora:x:1>", ["<lora:x:1>"]),
        ("cat BREAK dog", ["BREAK"]),
        ("a cat\nNegative prompt: dog", ["Negative prompt:"]),
        ("a <ink> cat, snake_case, -- and (16:9), [sic] [16:9] [a] ^_^ {caption} C:\\x", []),
        ("a [red|blue] car", ["[red|blue]"]),
        ("[cat:dog:0.5] and [from:to]", ["[cat:dog:0.5]"]),
        ("a [cat:0.5] [a::3]", ["[cat:0.5]"]),
        ("a [cat::3]", ["[cat::3]"]),
        ("a <wildcard:color> car", ["<wildcard:color>"]),
        ("a <random:red, blue> car", ["<random:red, blue>"]),
        ("a {} car", ["{}"]),
        ('<p class="x">a cat</p>', ['<p class="x">']),
        ("miku \\(vocaloid\\), \\[x\\]", ["\\("]),
        ("%trigger% in a hat, ${season}", ["%trigger%"]),
        ("a ${season} day", ["${season}"]),
        ("a cat++ and a dog--", ["cat++"]),
        ("a cat, a dog--, a mat", ["dog--"]),
        ("a (red ball)1.3 on a mat", ["(red ball)1.3"]),
        ("a (red ball)+ on a mat", ["(red ball)+"]),
        ("a {masterpiece} cat", ["{masterpiece}"]),
        ("{{best}} cat", ["{best}"]),
        ("a [[dull]] cat", ["[[dull]]"]),
        ("a cat::2 a dog::1", ["t::2"]),
        ("1.5::red cat::, mat", ["1.5::red cat::"]),
        ("a cat AND a dog", ["AND"]),
        ('("a cat", "a dog").and()', ['").and(']),
        ("a cat by embedding:ink-style", ["embedding:ink-style"]),
        ("a cat.<|im_end|>", ["<|im_end|>"]),
        ("<p>cat, hat</p>", ["<p>"]),
        ("salt &amp; pepper", ["&amp;"]),
        ("I'm sorry, I can't assist with that.", ["I'm sorry"]),
        ("**Caption:** a red cat", ["**Caption:"]),
        ("Tags: cat, hat", ["Tags:"]),
        ("- red cat", ["-"]),
        ("12) red cat", ["12)"]),
        ('"a red cat"', ['"a red cat"']),
        ('"a red cat",', ['"a red cat",']),
        ("“a red cat” --w 512", ["“a red cat”", "--w"]),
        ("'a red cat'", ["'a red cat'"]),
        ('"open" and "closed"', []),
        ('a sign that says "open"', []),
        ("'tis the season of dogs'", ["'tis the season of dogs'"]),
        ("a dog's life", []),
        ("1girl long_hair solo blue_eyes", ["1girl long_hair solo blue_eyes"]),
        ("1girl, long_hair, blue_eyes, a_b c_d", []),
        ("I am a cat, 3 cats, an answer: yes, snake_case and camel, 2. Liga", []),
        ("a C++ book, 50% off and 20% on, a cat -- or a dog, word--word, 1+1, 6+girls, +_+, R&B", []),
        ("a poster of SALT AND PEPPER, the sign AND, A and B, std::vector, re:zero, 16::9", []),
        ("a (small) cat-- so it seems, {caption}, <s0><s1>, x < y & z > 1, AT&T", []),
    ],
)
def test_syntax_of_other_programs_is_found(text: str, pieces: list[str]) -> None:
    assert [piece for _, piece in syntax_in(text)] == pieces


def test_a_path_is_not_a_prompt() -> None:
    assert all(map(is_path, ("prompts.txt", "data/prompts.yaml", "/data/prompts", "./prompts")))
    assert not any(map(is_path, ("a cat.", "cat", "a cat and/or a dog", "notes.txt on a desk")))
    (problem,) = path_problems("instance.prompt", ["prompts.txt", "a cat", None])
    assert problem.startswith("instance.prompt: got the path prompts.txt") and "Write the prompt out" in problem


def test_one_warning_an_option_names_what_it_holds() -> None:
    (warning,) = prompt_warnings({"preview.prompts": ["a cat", "cat --w 32", "{a|b}"], "prior.prompt": ["a dog"]})
    assert warning.startswith('preview.prompts: "cat --w 32"') and "--w 32 and a wildcard" in warning


OPTIONS = ("--data.folder", "own", "--output.folder", "out", "--model.source", "model")


def test_prompts_of_every_option_are_looked_at(tmp_path: Path) -> None:
    given = ["--instance.prompt", "a [name] dog", "--prior.prompt", "a dog --w 32"]
    given += ["--preview.prompts", "cat --w 32", "a (cat:1.2) --n ((dog)) --d 3"]
    config = parse(DreamBoothTrainConfig, [*OPTIONS, *given], program="test")
    lines = with_prompt_warnings(read_manifest(listed(tmp_path, A)), config).warnings[-3:]
    assert sorted(line.partition(":")[0] for line in lines) == ["instance.prompt", "preview.prompts", "prior.prompt"]
    assert not any("--w" in line for line in lines if line.startswith("preview.prompts"))


def test_a_path_given_as_a_prompt_is_refused_with_the_options(tmp_path: Path) -> None:
    given = ["--instance.prompt", "prompt.txt", "--prior.kind", "none"]
    given += ["--preview.prompts", "a cat --q 3", "data/prompts.txt"]
    with pytest.raises(ValueError) as caught:
        parse(DreamBoothTrainConfig, [*OPTIONS, *given], program="test")
    problems = ("preview.prompts: no file data/prompts.txt", 'preview.prompts: "a cat --q 3": --q: no such option')
    for words in ("instance.prompt: got the path prompt.txt", *problems):
        assert words in str(caught.value)
