import pickle
import shutil
from pathlib import Path

import pytest

from finetune.data.changes import Changes
from finetune.data.manifest import read_manifest
from finetune.data.visible_files import FolderSource
from tests.support.images import SHARED, A, B, C, Row, listed, listing, mistakes, picture, write


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    message = mistakes(str(tmp_path))
    assert "no images" in message and "python -m datasets_prep" in message


def test_a_folder_of_only_unreadable_formats_names_them(tmp_path: Path) -> None:
    message = mistakes(write(tmp_path, {"phone.CR2": b"junk", "phone.txt": "x"}))
    assert "no images" in message and "PNG or JPEG" in message and "phone.CR2" in message


def test_a_folder_without_captions_says_what_to_do(tmp_path: Path) -> None:
    message = mistakes(write(tmp_path / "my photos", {"a.png": picture(), "readme.txt": "about these"}))
    assert "no captions" in message and f"python -m datasets_prep --source '{tmp_path}/my photos' --output" in message


def test_a_listing_further_down_is_pointed_at(tmp_path: Path) -> None:
    message = mistakes(write(tmp_path, {"inner/a.png": picture(), "inner/metadata.jsonl": listing(A)}))
    assert "inner/metadata.jsonl" in message


@pytest.mark.parametrize(
    "folder", ["/no/such/folder", "./missing", "../missing", "missing", "a/b/c", "~/missing-folder"]
)
def test_a_folder_that_does_not_exist_is_not_a_hub_dataset(folder: str) -> None:
    with pytest.raises(FileNotFoundError, match="datasets_prep"):
        read_manifest(folder)


def test_a_file_instead_of_a_folder_is_named(tmp_path: Path) -> None:
    listed(tmp_path, A)
    assert "is a file" in mistakes(str(tmp_path / "metadata.jsonl"))


def test_the_folder_is_not_written_to(tmp_path: Path) -> None:
    folder = listed(tmp_path, A, B)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in [tmp_path, *tmp_path.rglob("*")])
    read_manifest(folder)
    assert before == sorted((str(p), p.stat().st_mtime_ns) for p in [tmp_path, *tmp_path.rglob("*")])


def test_a_source_can_be_pickled_and_does_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(tmp_path / "data", A)
    monkeypatch.chdir(tmp_path)
    source = read_manifest("./data").source
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(source)).read("a.png") == picture()
    assert isinstance(source, FolderSource)


def test_the_fingerprint_does_not_depend_on_place_or_order(tmp_path: Path) -> None:
    first = read_manifest(listed(tmp_path / "x", A, B, C))
    second = read_manifest(listed(tmp_path / "y", C, A, {**B, "ignored": 1}))
    assert first.fingerprint == second.fingerprint
    assert first.records == second.records


@pytest.mark.parametrize(
    "row",
    [
        {**A, "text": "other"},
        {**A, "text": ["one", "more"]},
        {**A, "weight": 2},
        {**A, "repeats": 2},
        {**A, "split": "validation"},
        {**C, "text": "one"},
    ],
)
def test_any_difference_of_a_record_changes_the_fingerprint(tmp_path: Path, row: Row) -> None:
    before, after = read_manifest(listed(tmp_path / "x", A, B)), read_manifest(listed(tmp_path / "y", row, B))
    assert before.fingerprint != after.fingerprint


def test_changes_name_what_was_added_removed_and_changed(tmp_path: Path) -> None:
    saved = read_manifest(listed(tmp_path / "x", A, B)).digests()
    assert not read_manifest(listed(tmp_path / "y", B, A)).changes(saved)
    folder = listed(tmp_path / "z", B, C)
    write(tmp_path / "z", {"b.png": picture("green")})
    changes = read_manifest(folder).changes(saved)
    assert changes == Changes(added=("c.png",), removed=("a.png",), changed=("b.png",))
    assert changes.summary() == "1 added: c.png; 1 removed: a.png; 1 changed: b.png"


def test_the_shared_style_folder_is_read(tmp_path: Path) -> None:
    folder = SHARED / "style_line"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/style_line beside the repository")
    manifest = read_manifest(str(folder))
    assert len(manifest.records) == 60 and manifest.warnings == ()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert read_manifest(str(copy)).fingerprint == manifest.fingerprint


def test_the_shared_photographs_lack_captions() -> None:
    folder = SHARED / "photos" / "dog"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/photos beside the repository")
    assert "no captions" in mistakes(str(folder))
