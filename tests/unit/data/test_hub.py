import io
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.captions.reading import CaptionReading
from finetune.data.manifest import read_manifest
from tests.support.images import picture
from tests.unit.datasets_prep.sources.test_detect import archive, opened, read_all

datasets = pytest.importorskip("datasets")


def saved(folder: Path, columns: Mapping[str, Sequence[object]], is_image: bool = True) -> str:
    rows = datasets.Dataset.from_dict(columns)
    if is_image:
        rows = rows.cast_column("image", datasets.Image())
    rows.save_to_disk(str(folder))
    return str(folder)


def test_rows_give_their_original_bytes_and_numbered_names(tmp_path: Path) -> None:
    images = [{"bytes": picture("red"), "path": "cat.jpg"}, {"bytes": picture("blue"), "path": None}]
    manifest = read_manifest(saved(tmp_path / "set", {"image": images, "text": ["a cat", "a dog"]}))
    first, second = manifest.records
    assert (first.file_name, first.captions) == ("00000000-cat.jpg", ("a cat",))
    assert second.file_name == "00000001-picture"
    assert (first.width, first.height) == (12, 8)
    source = pickle.loads(pickle.dumps(manifest.source))
    assert source.read(first.file_name) == picture("red")
    assert source.read(second.file_name) == picture("blue")


def test_lists_of_captions_and_other_column_names_are_read(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": picture("red"), "path": "x.jpg"}] * 3, "captions": [["a", "b"], ["c"], ["d", "d"]]}
    manifest = read_manifest(saved(tmp_path / "set", columns), reading=CaptionReading("captions"))
    assert [record.captions for record in manifest.records] == [("a", "b"), ("c",), ("d",)]


def test_a_prompt_is_the_caption_where_no_other_column_may_be(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": picture("red"), "path": "x.jpg"}], "prompt": ["a cat"], "objects": [["cat"]]}
    manifest = read_manifest(saved(tmp_path / "one", columns))
    assert manifest.records[0].captions == ("a cat",)
    assert [text for text in manifest.warnings if "of which another is read (1)" in text and "(prompt)" in text]
    with pytest.raises(ValueError, match=r"Set data\.caption_column to the one with the captions\. It is not objects"):
        read_manifest(saved(tmp_path / "two", columns | {"edit_prompt": ["a red cat"]}))


def test_plain_bytes_and_plain_numbers_are_images_too(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bytes", {"image": [picture("red")], "text": ["x"]}, is_image=False)
    assert read_manifest(folder).records[0].width == 12
    numbers = [[[[255, 0, 0]] * 4] * 2]
    manifest = read_manifest(saved(tmp_path / "numbers", {"image": numbers, "text": ["x"]}, is_image=False))
    data = manifest.source.read(manifest.records[0].file_name)
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert Image.open(io.BytesIO(data)).getpixel((3, 1)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("option", "given"),
    [("image_column", {"image_column": "nothing"}), ("caption_column", {"reading": CaptionReading("nothing")})],
)
def test_a_missing_column_names_the_columns_that_exist(tmp_path: Path, option: str, given: dict[str, Any]) -> None:
    folder = saved(tmp_path / "set", {"image": [{"bytes": picture("red"), "path": None}], "text": ["x"]})
    with pytest.raises(ValueError, match=rf"data.{option}.*image, text"):
        read_manifest(folder, **given)


def test_bad_rows_are_reported_together(tmp_path: Path) -> None:
    images = [{"bytes": data, "path": None} for data in (picture("red"), b"<html>", picture("red"))]
    folder = saved(tmp_path / "set", {"image": [*images, None], "text": ["x", "x", "", "x"]})
    with pytest.raises(ValueError) as caught:
        read_manifest(folder)
    for words in ("not usable images (1)", "without a caption (1)", "cannot be read (1)"):
        assert words in str(caught.value)


def test_a_row_cannot_point_to_a_file_outside_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "private.jpg").write_bytes(picture("red"))
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "private.jpg")}], "text": ["x"]}
    with pytest.raises(ValueError, match="outside"):
        read_manifest(saved(tmp_path / "set", rows, is_image=False))


def test_the_train_split_of_a_saved_dictionary_is_used(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"image": [{"bytes": picture("red"), "path": "a.jpg"}], "text": ["x"]})
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "set"))
    assert len(read_manifest(str(tmp_path / "set")).records) == 1
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="splits test"):
        read_manifest(str(tmp_path / "other"))


def test_a_damaged_saved_dataset_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="could not be loaded"):
        read_manifest(str(tmp_path))


def tables(folder: Path, **splits: Sequence[str]) -> str:
    folder.mkdir()
    for split, texts in splits.items():
        rows = {"image": [{"bytes": picture("red"), "path": None}] * len(texts), "text": texts}
        datasets.Dataset.from_dict(rows).to_parquet(str(folder / f"{split}-00000.parquet"))
    return str(folder)


def test_a_folder_of_tables_is_read_as_it_is(tmp_path: Path) -> None:
    folder = tables(tmp_path / "set", train=["a cat", "a dog"], validation=["a cow"])
    before = sorted(Path(folder).iterdir())
    manifest = read_manifest(folder)
    assert [record.captions for record in manifest.records] == [("a cat",), ("a dog",)]
    assert [line for line in manifest.warnings if "splits" in line] == [
        "splits that are not read beside train (1): validation"
    ]
    assert pickle.loads(pickle.dumps(manifest.source)).read(manifest.records[1].file_name) == picture("red")
    assert sorted(Path(folder).iterdir()) == before


def test_an_archive_of_images_is_read_as_it_is(tmp_path: Path) -> None:
    archive(tmp_path / "shard.tar", {"x.png": picture("blue"), "x.txt": "a cat"})
    manifest = read_manifest(str(tmp_path), image_column="png", reading=CaptionReading("txt"))
    assert [record.captions for record in manifest.records] == [("a cat",)]
    assert manifest.source.read(manifest.records[0].file_name) == picture("blue")


def fetched(folder: Path, statuses: Sequence[str], files: Sequence[str] = ("jpg", "txt", "json")) -> None:
    """Write an archive and its table as img2dataset does. Only images that were fetched are in the archive."""
    rows = [
        {"url": f"https://example.org/{n}", "caption": f"a cat {n}", "key": f"00000{n:04d}", "status": status}
        for n, status in enumerate(statuses)
    ]
    members: dict[str, bytes | str] = {}
    for row in rows:
        if row["status"] == "success":
            contents = {"jpg": picture("blue"), "txt": row["caption"], "json": json.dumps(row)}
            members |= {f"{row['key']}.{suffix}": contents[suffix] for suffix in files}
    archive(folder / "00000.tar", members)
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "00000.parquet"))
    (folder / "00000_stats.json").write_text('{"count": 3}')


@pytest.mark.parametrize("files", [("jpg", "txt", "json"), ("jpg", "json")])
def test_archives_of_img2dataset_are_read_and_failed_rows_counted(tmp_path: Path, files: tuple[str, ...]) -> None:
    """Read them by recipes and in preparation."""
    fetched(tmp_path, ["success", "failed_to_download", "success"], files)
    manifest = read_manifest(str(tmp_path))
    assert [record.captions for record in manifest.records] == [("a cat 0",), ("a cat 2",)]
    assert manifest.source.read(manifest.records[1].file_name) == picture("blue")
    assert any("could not be fetched" in text and "00000.parquet (1 of 3)" in text for text in manifest.warnings)
    found, notes = read_all(opened(tmp_path))
    assert [texts for name, (_, texts) in found.items() if name.endswith(".jpg")] == [("a cat 0",), ("a cat 2",)]
    assert "00000.parquet (1 of 3)" in notes


def test_folders_of_img2dataset_are_read_and_failed_rows_counted(tmp_path: Path) -> None:
    """The table and the statistics do not count as images."""
    fetched(tmp_path, ["success", "failed_to_download", "success"])
    (tmp_path / "00000").mkdir()
    with tarfile.open(tmp_path / "00000.tar") as members:
        members.extractall(tmp_path / "00000", filter="data")
    (tmp_path / "00000.tar").unlink()
    manifest = read_manifest(str(tmp_path))
    assert [record.captions for record in manifest.records] == [("a cat 0",), ("a cat 2",)]
    assert any("could not be fetched" in text and "00000.parquet (1 of 3)" in text for text in manifest.warnings)
    found, notes = read_all(opened(tmp_path))
    assert not {"00000.parquet", "00000_stats.json"} & found.keys() and "00000.parquet (1 of 3)" in notes


def test_a_table_beside_images_is_left_alone(tmp_path: Path) -> None:
    tables(tmp_path / "set", train=["a cat"])
    (tmp_path / "set" / "x.png").write_bytes(picture("blue"))
    (tmp_path / "set" / "x.txt").write_text("a dog")
    assert [record.captions for record in read_manifest(str(tmp_path / "set")).records] == [("a dog",)]


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"data\.folder: .* could not be loaded with datasets\.load_dataset .*Correct"):
        read_manifest(str(tmp_path))
