import json
import re
from pathlib import Path

import pytest

from finetune.config.drawing.files import names_file, read_prompt_file, with_files_read
from finetune.config.drawing.generate import GenerateConfig
from finetune.config.drawing.options import PromptOptions
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump

TEXT = """# two prompts
a cat --w 64 --d 3

  a dog, running  --n blurry
"""
YAML = """
- a cat --w 64
- prompt: a dog
  negative_prompt: blurry
  seed: 7
- {prompt: "a bird 😀", width: 32, strength: [0.5, 1]}
"""


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    prompts, wrong = read_prompt_file(written(tmp_path, "prompts.txt", "\ufeff" + TEXT))
    assert wrong == []
    assert prompts == [
        PromptOptions("a cat", width=64, seed=3),
        PromptOptions("a dog, running", negative_prompt="blurry"),
    ]


def test_yaml_and_json_are_the_same_list(tmp_path: Path) -> None:
    expected = [
        PromptOptions("a cat", width=64),
        PromptOptions("a dog", negative_prompt="blurry", seed=7),
        PromptOptions("a bird 😀", width=32, strength=(0.5, 1.0)),
    ]
    entries = ["a cat --w 64", {"prompt": "a dog", "negative_prompt": "blurry", "seed": 7}]
    entries += [{"prompt": "a bird 😀", "width": 32, "strength": [0.5, 1]}]
    assert read_prompt_file(written(tmp_path, "prompts.yaml", YAML)) == (expected, [])
    for text in (json.dumps(entries), json.dumps(entries, indent=1, ensure_ascii=False)):
        assert read_prompt_file(written(tmp_path, "prompts.json", text)) == (expected, [])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "a cat\n\na dog --q 3\n", ["p.txt, line 3: --q: no such option"]),
        ("p.txt", "# nothing\n", ["p.txt: expected a prompt"]),
        ("p.txt", "a --w x\nb --h y", ["line 1: --w", "line 2: --h"]),
        ("p.yaml", "- a cat\n- prompt: a dog\n  widths: 3\n- 7\n", ["line 2: widths", "line 4: got 7"]),
        ("p.yaml", "a: [b", ["p.yaml: is not valid YAML"]),
        ("p.yaml", "- {prompt: a, prompt: b}", ["gives prompt twice, again in line 1"]),
        ("p.yaml", "prompt: a cat", ["holds dict, expected a list"]),
        ("p.json", '["a",\n\n {"prompt": "b",\n "seed": -1}]', ["line 3: seed: got -1"]),
        ("p.json", "[1, 2", ["p.json: is not valid JSON"]),
        ("p.json", "[]", ["expected a prompt"]),
        ("p.csv", "a", ["p.csv, expected one of .txt, .yaml, .yml, .json"]),
    ],
)
def test_problems_have_file_and_line(name: str, content: str, words: list[str], tmp_path: Path) -> None:
    _, wrong = read_prompt_file(written(tmp_path, name, content))
    assert len(wrong) == len(words)
    for line, word in zip(wrong, words, strict=True):
        assert str(tmp_path / name) in line and word in line


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    assert "no file" in read_prompt_file(tmp_path / "none.txt")[1][0]
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    assert "UTF-8" in read_prompt_file(tmp_path / "p.txt")[1][0]


def test_the_files_of_the_guide_are_read(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[4] / "docs" / "generate.md").read_text(encoding="utf-8")
    listed, combined = re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)
    prompts, wrong = read_prompt_file(written(tmp_path, "a.yaml", listed))
    assert wrong == [] and [options.strength for options in prompts] == [None, (0.8,)]
    prompts, wrong = read_prompt_file(written(tmp_path, "b.yaml", combined))
    assert wrong == [] and len({options.prompt for options in prompts}) == 6


def test_images_are_searched_beside_the_file(tmp_path: Path) -> None:
    written(tmp_path, "a.png", "")
    file = written(tmp_path, "p.txt", "a cat --i a.png\na dog --i b.png")
    assert [options.image for options in read_prompt_file(file)[0]] == [str(tmp_path / "a.png"), "b.png"]


def test_a_path_among_prompts_is_read_where_it_is(tmp_path: Path) -> None:
    file = written(tmp_path, "my prompts.txt", TEXT)
    prompts, wrong = with_files_read(["one", str(file), "two --d 3"], "prompts")
    assert wrong == [] and prompts == ["one", "a cat --w 64 --d 3", "a dog, running --n blurry", "two --d 3"]
    assert not names_file("a cat on prompts.txt") and names_file("prompts.txt")
    assert with_files_read(["absent.txt"], "prompts") == (
        [],
        ["prompts: no file absent.txt. Give the path of a file of prompts, or a prompt."],
    )


DIMENSIONS = """
dimensions:
  subject: [a cat, a dog]
  medium: [ink, oil, pencil]
template: "{subject} in {medium}"
width: 64
"""


def test_dimensions_make_all_combinations_the_last_fastest(tmp_path: Path) -> None:
    prompts, wrong = read_prompt_file(written(tmp_path, "p.yaml", DIMENSIONS))
    texts = [f"{subject} in {medium}" for subject in ("a cat", "a dog") for medium in ("ink", "oil", "pencil")]
    assert wrong == [] and prompts == [PromptOptions(text, width=64) for text in texts]
    plain = json.dumps({"dimensions": {"subject": ["a cat"], "light": ["dawn", 3]}})
    assert [each.prompt for each in read_prompt_file(written(tmp_path, "p.json", plain))[0]] == [
        "a cat, dawn",
        "a cat, 3",
    ]


def test_num_draws_different_combinations_by_a_seed(tmp_path: Path) -> None:
    def drawn(more: str) -> list[str]:
        prompts, wrong = read_prompt_file(written(tmp_path, "p.yaml", DIMENSIONS + more))
        assert wrong == []
        return [options.prompt for options in prompts]

    assert len(set(drawn("num: 4"))) == 4 and drawn("num: 4") == drawn("num: 4\ndraw_seed: 0")
    assert drawn("num: 4\ndraw_seed: 1") != drawn("num: 4") and sorted(drawn("num: 6")) == sorted(drawn(""))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("dimensions: 3", "dimensions: expected a mapping"),
        ("dimensions: {a: []}", "dimensions.a: expected a list"),
        ("dimensions: {a: [x, x]}", "dimensions.a: has x twice"),
        ("dimensions: {a b: [x]}", "the name a b"),
        ("dimensions: {a: [x]}\ntemplate: '{b} {a}'", "{b} names no dimension. Use a"),
        ("dimensions: {a: [x], b: [y]}\ntemplate: '{b}'", "lacks {a}"),
        ("dimensions: {a: [x]}\nnum: 2", "num from 1 to the 1 combinations"),
        ("dimensions: {a: [x]}\nnumber: 2", "number: no such option"),
        ("dimensions: {a: ['x --w 3']}", "holds the option --w"),
        (f"dimensions: {{a: {list(range(40))}, b: {list(range(40))}}}", "1,600 combinations, expected at most 1,000"),
    ],
)
def test_wrong_dimensions_are_named(content: str, word: str, tmp_path: Path) -> None:
    prompts, wrong = read_prompt_file(written(tmp_path, "p.yaml", content))
    assert len(wrong) == 1 and word in wrong[0], (prompts, wrong)


OPTIONS = ("--model.source", "model", "--output", "out")


def test_the_command_writes_out_the_prompts_of_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, "p.txt", TEXT)
    config = parse(
        GenerateConfig, [*OPTIONS, "--prompts", str(file), "one", "--seed", "5", "--width", "48"], program="t"
    )
    assert config.prompts == ("a cat --w 64 --d 3", "a dog, running --n blurry", "one")
    assert [(o.prompt, o.width, o.seed, o.negative_prompt) for o in config.read_prompts()] == [
        ("a cat", 64, 3, ""),
        ("a dog, running", 48, 5, "blurry"),
        ("one", 48, 5, ""),
    ]
    file.unlink()
    again = written(tmp_path, "again.yaml", dump(config))
    assert parse(GenerateConfig, ["--config", str(again)], program="t") == config


def test_all_mistakes_of_the_command_come_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "p.txt", "a cat --q 3")
    given = [
        "--prompts",
        str(file),
        "a --w x",
        "--sampler",
        "nothing",
        "--lora",
        "absent:0.5",
        "--width",
        "0",
        "--imag",
        "x",
    ]
    with pytest.raises(ValueError) as raised:
        parse(GenerateConfig, [*OPTIONS, *given], program="t")
    for word in (
        "p.txt, line 1: --q",
        '"a --w x": --w',
        "sampler: got nothing",
        "lora: no file absent",
        "width: got 0",
        "imag:",
    ):
        assert word in str(raised.value), word


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("scale", "guidance_scale"),
        ("cfg_scale", "guidance_scale"),
        ("sample_steps", "num_inference_steps"),
        ("diffusion_steps", "num_inference_steps"),
        ("noise_scheduler", "sampler"),
    ],
)
def test_names_of_other_programs_are_answered_with_ours(theirs: str, ours: str, tmp_path: Path) -> None:
    (wrong,) = read_prompt_file(written(tmp_path, "p.json", json.dumps([{"prompt": "a cat", theirs: 7}])))[1]
    assert f"{theirs}: no such option. It is called {ours} here." in wrong


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"cat": "a cat"}', "holds texts by name"), ('{"3": {"class_type": "KSampler"}}', "holds a workflow of ComfyUI")],
)
def test_files_of_other_programs_are_named(content: str, words: str, tmp_path: Path) -> None:
    (wrong,) = read_prompt_file(written(tmp_path, "p.json", content))[1]
    assert f"{words}, expected a list of prompts" in wrong
