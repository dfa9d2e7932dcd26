from pathlib import Path

import pytest

from finetune.report.rows import read_objects


@pytest.mark.parametrize("damage", ['{"a": ', "[1]", "9" * 5000, "[" * 100_000])
def test_lines_that_are_no_objects_are_counted(damage: str, tmp_path: Path) -> None:
    """Python refuses long numbers and deep nesting by errors of their own."""
    (tmp_path / "lines").write_text(f'{{"a": 1}}\n{damage}\n{{"a": 2}}\n')
    assert read_objects(tmp_path / "lines") == ([{"a": 1}, {"a": 2}], 1)


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_objects(tmp_path / "absent") == ([], 0)
    assert read_objects(tmp_path) == ([], 0)
