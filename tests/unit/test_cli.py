import importlib.util
import sys
from pathlib import Path

import pytest

from datasets_prep.__main__ import review
from finetune.cli import main


@pytest.mark.parametrize(
    "line", ["plan --processes 1 --processes=2 lora", "demo --steps 5 --steps 5", "doctor tokens --num 1 --num 2"]
)
def test_an_option_that_is_given_twice_is_refused(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_the_version_is_printed(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", word])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "; torch 2." in capsys.readouterr().out


def test_so_is_one_of_the_review(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        review(["prepared", "--port", "1", "--port", "2"])
    assert "--port: given twice" in capsys.readouterr().err


def test_a_demo_without_its_fonts_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else found(name, *more)
    )
    monkeypatch.setattr(sys, "argv", ["finetune", "demo", "--output", str(tmp_path / "demo")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "error: matplotlib is not installed" in capsys.readouterr().err
