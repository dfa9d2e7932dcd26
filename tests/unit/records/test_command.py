import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.records import database
from finetune.records.csv_file import read_csv
from finetune.records.database import FILE
from tests.support.drawn_folders import add_generated, add_previews, make_runs
from tests.support.guides import ROOT, commands


def records(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "records", *map(str, arguments)])
    main()


def test_the_command_finds_what_was_drawn_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records(monkeypatch, make_runs(tmp_path))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Records: 26 added." and shown[-1].startswith("20 of 26 images. --num 26 shows all")
    add_generated(tmp_path / "later", "a lighthouse")
    records(monkeypatch, tmp_path, "--search", "lighthouse", "--filter", "seed=0", "--filter", "strength>0.5")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Records: 1 added." and shown[-1] == "1 image found."
    assert "later/image_000.png" in shown[-2] and "a lighthouse" in shown[-2]


def test_the_scores_that_are_asked_for_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records(monkeypatch, make_runs(tmp_path), "--filter", "scores.style>0.8", "--filter", "scores.style<1")
    head, first = capsys.readouterr().out.splitlines()[1:3]
    assert head.split().count("scores.style") == 1 and "0.900" in first


def test_everything_found_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(tmp_path)
    records(monkeypatch, tmp_path, "--csv", tmp_path / "all.csv")
    assert "Wrote 26 images" in capsys.readouterr().out
    assert len(read_csv(tmp_path / "all.csv")) == 26
    records(monkeypatch, tmp_path, "--csv", tmp_path / "all.csv", "--filter", "kind=generated")
    assert [row["prompt"] for row in read_csv(tmp_path / "all.csv")][-2:] == ["=1+1 apple", "ein Häuschen im Wald"]


def test_records_in_use_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    add_previews(tmp_path / "ink", 0)
    records(monkeypatch, tmp_path)
    add_previews(tmp_path / "ink", 0, 10)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    capsys.readouterr()
    records(monkeypatch, tmp_path)
    other.close()
    shown = capsys.readouterr().out
    assert "in use" in shown and "are not shown" in shown and "2 images." in shown


def test_a_damaged_file_is_rebuilt_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_previews(tmp_path / "ink", 0)
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(SystemExit):
        records(monkeypatch, tmp_path)
    assert "--rebuild" in capsys.readouterr().err
    records(monkeypatch, tmp_path, "--rebuild")
    shown = capsys.readouterr().out
    assert "kept as" in shown and "2 images." in shown


def test_prompts_cannot_rule_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_generated(tmp_path / "drawn", "red \x1b[31m\r apple")
    records(monkeypatch, tmp_path)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\r" not in shown and "apple" in shown


def test_the_commands_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_runs(tmp_path / "runs")
    shutil.copy(tmp_path / "runs" / "ink" / "drawn" / "image_000.png", "found.png")
    said = []
    for command in commands((ROOT / "docs" / "records.md").read_text()):
        records(monkeypatch, *command[2:])
        said.append(capsys.readouterr().out.splitlines()[-1].partition(".")[0])
    assert said == ["20 of 26 images", "5 images found", "1 image found", "Wrote 2 images to images"]
    assert len(read_csv(tmp_path / "images.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ink"], "expected the one around it"),
        (["empty"], "no run folders"),
        (["absent"], "no folder"),
        ([".", "--num", 0], "num:"),
    ],
)
def test_mistakes_are_sentences(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_previews(tmp_path / "ink", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        records(monkeypatch, *arguments)
    assert ended.value.code == 1 and word in capsys.readouterr().err
    assert not (tmp_path / "ink" / FILE).exists() and not (tmp_path / "empty" / FILE).exists()
