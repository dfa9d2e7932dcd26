import hashlib
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.compare.command import compare
from tests.support.scored_run import plain_run, scored_run


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files}


def test_ten_runs_are_compared_and_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        scored_run(tmp_path / "runs" / f"ink-{place}", style={50: 0.5, 100: 0.6, 200: 0.7 + place / 100})
        for place in range(9)
    ]
    folders.append(plain_run(tmp_path / "runs" / "plain"))
    before, page = digests(tmp_path), tmp_path / "pages" / "ten.html"
    monkeypatch.setattr(sys, "argv", ["finetune", "compare", *map(str, folders), "--output", str(page)])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:11]] == [folder.name for folder in folders]
    assert printed[0].split()[0] == "run" and "highest" in printed[9] and "not scored" in printed[11]
    text = page.read_text()
    assert text.count("key c1 plain") and "key c1 dashed" in text and "Options that differ" in text
    page.unlink()
    page.parent.rmdir()
    assert digests(tmp_path) == before


def test_runs_that_were_not_scored_are_told_how_to_be(tmp_path: Path) -> None:
    lines: list[str] = []
    compare([plain_run(tmp_path / "a"), plain_run(tmp_path / "b")], tmp_path / "page.html", say=lines.append)
    assert any(f"finetune evaluate {tmp_path}/a {tmp_path}/b --output SCORES" in line for line in lines)


def test_a_page_never_replaces_another_file(tmp_path: Path) -> None:
    folders = [plain_run(tmp_path / "a"), plain_run(tmp_path / "b")]
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own page</p>")
    for output, word in (
        (mine, "not a page of finetune compare"),
        (tmp_path, "expected an HTML file"),
        (tmp_path / "table.csv", "expected an HTML file"),
        (folders[0] / "report.html", "only read"),
    ):
        with pytest.raises(ValueError, match=word):
            compare(folders, output, say=lambda text: None)
    assert mine.read_text() == "<p>my own page</p>"
    page = compare(folders, tmp_path / "page.html", say=lambda text: None)
    assert compare(folders, page, say=lambda text: None) == page  # its own page is written again
