from pathlib import Path

import pytest

from finetune.replaced_folder import clear_replaced, replace_folder


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("old", "new", "else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    (tmp_path / "else" / ".unlike.replaced").mkdir()
    return tmp_path


def test_the_older_folder_goes_where_the_new_one_has_its_name(out: Path) -> None:
    (out / "new").rename(out / "export")
    (out / "old").rename(out / ".export.replaced")
    clear_replaced(out)
    assert content(out) == {"export/weights": "new", "else/weights": "else"}
    assert not (out / ".export.replaced").exists() and (out / "else" / ".unlike.replaced").exists()


def test_the_older_folder_gets_its_name_back_where_the_new_one_has_it_not(out: Path) -> None:
    (out / "old").rename(out / ".export.replaced")
    clear_replaced(out)
    assert content(out / "export") == {"weights": "old"}
    replace_folder(out / "new", out / "export")
    assert content(out / "export") == {"weights": "new"} and not list(out.glob(".*"))
