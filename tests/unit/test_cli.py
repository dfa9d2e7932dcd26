import sys

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


def test_so_is_one_of_the_review(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        review(["prepared", "--port", "1", "--port", "2"])
    assert "--port: given twice" in capsys.readouterr().err
