import csv
from pathlib import Path

import pytest

from finetune.records.csv_file import FORMULA_SIGNS, read_csv, write_csv
from finetune.records.database import COLUMNS

HOSTILE = [
    *('=HYPERLINK("http://x","y")', "+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "\n=x", "  =x", "＝1", "'=1", "'", "''"),
    *('a "quoted", one', "line\nbreak", "a\r\nb", "", "café 猫", "x=1", "--w 512"),
]


def row(**given: object) -> dict[str, object]:
    return dict.fromkeys(COLUMNS, "") | {"path": "a.png", "step": 100, "width": 8} | given


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_come_back_and_none_is_a_formula(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.csv"
    write_csv(path, [row(prompt=text, run=text)])
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell.lstrip(" ").startswith(FORMULA_SIGNS) for cell in cells)
    found = read_csv(path)
    assert found[0]["prompt"] == text and found[0]["run"] == text and found[0]["step"] == "100"


def test_numbers_stay_numbers_and_every_score_has_a_column(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", [row(**{"scores.leak": -0.25}), row(**{"scores.style": 0.5})])
    found = read_csv(tmp_path / "out.csv")
    assert [float(found[0]["scores.leak"]), found[0]["scores.style"], found[1]["scores.style"]] == [-0.25, "", "0.5"]


def test_only_an_earlier_list_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_csv(path, [row()])
    write_csv(path, [row(), row()])
    assert len(read_csv(path)) == 2
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"^csv: "):
        write_csv(path, [row()])
    assert path.read_text() == "mine"
