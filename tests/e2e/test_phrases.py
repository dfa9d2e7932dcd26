import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def refused(tmp_path: Path, text: str, *, gate: str = "phrases", suffix: str = ".md") -> list[str]:
    page = tmp_path / f"page{suffix}"
    page.write_text(text)
    command = [sys.executable, str(ROOT / ".ci" / f"{gate}.py"), str(page)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == bool(ended.stderr), ended.stderr
    return ended.stderr.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "Pictures are cached.",
        "Compared with the untouched model.",
        "A data set of images.",
        "It finds near-copies.",
        "The text is saved anew.",
        "The option may be left away.",
        "A killed run goes on.",
        "The report stands in the run folder.",
        "Its weights lie beside the\nconfig.",
        "This is no valid option.",
        "It prints a line a prompt.",
        "It takes 16 bytes a weight.",
    ],
)
def test_a_phrase_that_is_out_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "Use `prior.kind pictures` and `sd15_lora_from_pictures.yaml`.",
        "See [the preset](recipes/configs/sd15_lora_from_pictures.yaml).",
        "```bash\npython -m datasets_prep --source my_pictures\n```",
        "Run\n\n    python -m datasets_prep --source pictures\n\nand look.",
        "There is no such file, and it is no longer read.",
        "A token that stands for the subject.",
        "Every image gets a caption; each line ends a sentence.",
        "This goes on top.",
    ],
)
def test_code_and_other_words_pass(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text) == []


def test_the_line_and_what_to_write_are_named(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, "# Title\n\n```\ncode\n```\n\nA picture.\n")
    assert "page.md:7" in line and '"picture"' in line and "image" in line


def test_prose_after_an_indented_block_is_read(tmp_path: Path) -> None:
    assert refused(tmp_path, "Run\n\n    command\n\nIt draws pictures.\n")


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("x = 1  # one picture", 1),
        ('"""It goes on."""', 1),
        ('raise ValueError("no such picture")', 1),
        ("pictures = picture(1)", 0),
        ('row["picture"]', 0),
        ('"""Use `prior.kind pictures` there."""', 0),
    ],
)
def test_prose_of_python_is_read_and_its_names_are_not(tmp_path: Path, line: str, number: int) -> None:
    assert len(refused(tmp_path, f"{line}\n", suffix=".py")) == number


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("Returns the loss.", "imperative"),
        ("Whether the image is grey.", "imperative"),
        ("A sentence of thirteen words, which is one more than all others have.", "13 words"),
        ("Return the loss.", None),
        ("Images as batches. A second sentence may have as many words as it needs to say what it has to.", None),
        ("A sentence of twelve words, which is as many as all have.", None),
    ],
)
@pytest.mark.parametrize("template", ['"""{}"""', 'def loss():\n    """{}\n\n    The rest.\n    """'])
def test_first_sentences_of_docstrings_are_short_and_plain(
    tmp_path: Path, template: str, docstring: str, fault: str | None
) -> None:
    found = refused(tmp_path, template.format(docstring) + "\n", gate="docstrings", suffix=".py")
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
