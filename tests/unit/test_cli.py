import importlib.util
import runpy
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


@pytest.mark.parametrize("line", ["--version", "-V", "version", "--version plan lora"])
def test_the_version_is_printed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "; torch 2." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("plan lora", "data.folder: missing"),
        ("lora resize absent.safetensors --rank 8 --output new.safetensors", "there is no such file"),
        ("records absent", "absent"),
        ("rate absent absent", "absent"),
    ],
)
def test_options_of_commands_reach_them(
    line: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and problem in capsys.readouterr().err


def test_a_demo_without_steps_is_refused_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "demo", "--steps", "-1", "--output", str(tmp_path / "demo")])
    with pytest.raises(SystemExit):
        main()
    assert "--steps: got -1, expected 1 or more." in capsys.readouterr().err and not (tmp_path / "demo").exists()


def test_words_that_are_too_many_show_the_usage_of_their_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "import", "accelerate", "launch", "train_network.py"])
    with pytest.raises(SystemExit):
        main()
    assert "usage: finetune import [--output NEW.yaml] (FILE | -- ARGUMENTS)" in capsys.readouterr().err


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "presets"])
    runpy.run_module("finetune", run_name="__main__")
    assert "sd15_lora_style" in capsys.readouterr().out


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
