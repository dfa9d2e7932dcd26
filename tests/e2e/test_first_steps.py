"""Alarms of the first steps, in real runs."""

import json
from pathlib import Path

from tests.support.runs import Options, completed, without_lora


def test_weights_that_do_not_move_are_told_in_the_output_and_the_report(tiny_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = without_lora(tiny_run) | {"train.steps": 4, "optim.lr": 1e-14, "output.folder": out}
    ended = completed("full", tiny | {"checkpoint.every": 2}, tmp_path / "log")
    text = "have not changed in 4 steps"
    assert f"{text}. Their updates are too small" in ended.output
    assert any(text in warning for warning in json.loads((out / "data_card.json").read_text())["warnings"])
    assert text in (out / "report.html").read_text()
    assert text in (out / "run.log").read_text()


def test_a_continued_run_is_watched_too(tiny_run: Options, tmp_path: Path) -> None:
    tiny = without_lora(tiny_run) | {"train.steps": 4, "output.folder": tmp_path / "run", "optim.schedule": "constant"}
    completed("full", tiny, tmp_path / "log")
    ended = completed("full", tiny | {"train.steps": 7, "optim.lr": 1e-14}, tmp_path / "log_again")
    assert "have not changed in 3 steps" in ended.output


def test_a_run_that_trains_raises_no_alarm(tiny_run: Options, tmp_path: Path) -> None:
    ended = completed("lora", tiny_run | {"train.steps": 12, "output.folder": tmp_path / "run"}, tmp_path / "log")
    assert "gradient" not in ended.output and "have not changed" not in ended.output
