"""What other programs would interpret in a prompt is found and named; a path is no prompt."""

import pytest

from finetune.prompt_syntax import is_path, path_problems, prompt_warnings, syntax_in


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
        ("a <ink> cat, snake_case, -- and (16:9), [sic] \\(series\\) ^_^ {caption}", []),
    ],
)
def test_syntax_of_other_programs_is_found(text: str, pieces: list[str]) -> None:
    assert [piece for _, piece in syntax_in(text)] == pieces


def test_a_path_is_no_prompt() -> None:
    assert all(map(is_path, ("prompts.txt", "data/prompts.yaml", "/data/prompts", "./prompts")))
    assert not any(map(is_path, ("a cat.", "cat", "a cat and/or a dog", "notes.txt on a desk")))
    (problem,) = path_problems("preview.prompts", ["prompts.txt", "a cat", None])
    assert problem.startswith("preview.prompts: got the path prompts.txt") and "--preview.prompts" in problem


def test_one_warning_an_option_names_what_it_holds() -> None:
    (warning,) = prompt_warnings({"preview.prompts": ["a cat", "cat --w 32", "{a|b}"], "prior.prompt": ["a dog"]})
    assert warning.startswith('preview.prompts: "cat --w 32"') and "--w 32 and a wildcard" in warning
