import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from datasets_prep.records import PrepSource
from finetune.data.images.decode import open_rgb
from finetune.data.listing import Entry, Findings
from tests.support.images import picture, write
from tests.unit.datasets_prep.sources.test_detect import IMAGE, opened, table

RED, BLUE = picture("red"), picture("blue")


def entries(source: PrepSource) -> tuple[dict[str, Entry], str]:
    findings = Findings()
    names = [item.source for item in source.listing(findings).items]
    return dict(source.entries(names, findings)), "\n".join(findings.warnings)


def test_plain_bytes_and_other_columns_are_read(tmp_path: Path) -> None:
    columns = {"jpg": [RED, BLUE], "caption": ["one", " "], "weight": [2.0, None], "split": ["validation", "test"]}
    source = opened(table(tmp_path, **columns), column="caption", image="jpg")
    found, notes = entries(source)
    first, second = found.values()
    assert first == Entry("part/00000000-picture", ("one",), 2.0, 1, "validation")
    assert (second.captions, second.weight, second.split) == ((), 1.0, None)
    assert "problems in part" in notes and "test" in notes
    assert source.read(second.file_name) == BLUE


def test_a_table_without_captions_is_noted_and_a_wrong_column_refused(tmp_path: Path) -> None:
    path = table(tmp_path, image=[RED], title=["x"])
    found, notes = entries(opened(path))
    assert [entry.captions for entry in found.values()] == [()] and "image, title" in notes
    with pytest.raises(ValueError, match=r"^caption_column: 'captoin' is not a column"):
        entries(opened(path, column="captoin"))


def test_a_prompt_is_the_caption_unless_another_column_may_be(tmp_path: Path) -> None:
    found, notes = entries(opened(table(tmp_path / "one", image=[RED], prompt=["a cat"], objects=["cat"])))
    assert [entry.captions for entry in found.values()] == [("a cat",)]
    assert "without the column text, of which another is read (1)" in notes and "(prompt)" in notes
    with pytest.raises(ValueError, match=r"columns are image, prompt, edit_prompt\. Set caption_column"):
        entries(opened(table(tmp_path / "two", image=[RED], prompt=["a cat"], edit_prompt=["a red cat"])))
    with pytest.raises(ValueError, match=r"columns are image, tags\. Set caption_column"):
        entries(opened(table(tmp_path / "tags", image=[RED], tags=["cat, dog"])))


def test_labels_of_classes_become_their_names(tmp_path: Path) -> None:
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = {b"huggingface": json.dumps({"info": {"features": {"label": label}}}).encode()}
    rows = pyarrow.table({"image": [RED, BLUE], "label": [1, -1]}).replace_schema_metadata(metadata)
    parquet.write_table(rows, tmp_path / "part.parquet")
    found, _ = entries(opened(tmp_path / "part.parquet", column="label"))
    assert [entry.captions for entry in found.values()] == [("dog",), ()]
    parquet.write_table(rows.replace_schema_metadata({b"huggingface": b"[" * 100_000}), tmp_path / "deep.parquet")
    found, _ = entries(opened(tmp_path / "deep.parquet", column="label"))
    assert [entry.captions for entry in found.values()] == [(), ()]


def test_rows_without_an_image_say_so(tmp_path: Path) -> None:
    images = pyarrow.array([{"bytes": None, "path": "/etc/passwd"}, None, {"bytes": RED, "path": "a/b\\c.png"}], IMAGE)
    source = opened(table(tmp_path, image=images, text=["x"] * 3))
    names = [item.source for item in source.listing(Findings()).items]
    assert names == ["part/00000000-passwd", "part/00000001-picture", "part/00000002-c.png"]
    with pytest.raises(ValueError, match="names a file"):
        source.read(names[0])
    with pytest.raises(ValueError, match="has no image"):
        source.read(names[1])
    assert source.read(names[2]) == RED


def test_a_split_of_a_saved_dataset_can_be_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sets = {
        split: datasets.Dataset.from_dict({"image": [{"bytes": data, "path": "a.png"}], "text": [split]})
        for split, data in (("train", RED), ("test", BLUE))
    }
    datasets.DatasetDict(sets).save_to_disk(str(tmp_path / "rows"))
    for given, caption, data in ((tmp_path / "rows", "train", RED), (f"{tmp_path / 'rows'}:test", "test", BLUE)):
        source = opened(given)
        found, _ = entries(source)
        assert found == {"00000000-a.png": Entry("00000000-a.png", (caption,))}
        assert source.read("00000000-a.png") == data and source.name == "rows"
    with pytest.raises(ValueError, match=r"^source: .*expected one called dev"):
        opened(f"{tmp_path / 'rows'}:dev")


def test_a_damaged_table_costs_only_itself(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "part.parquet").read_bytes()[:-20])
    found = opened(tmp_path).listing(Findings())
    assert len(found.items) == 6
    assert [(left.source, left.reason) for left in found.rejected] == [("cut.parquet", "truncated")]


def test_what_was_prepared_as_tables_can_be_prepared_again(tmp_path: Path) -> None:
    columns = {"image": [RED], "text": ["one"], "width": [12], "height": [8], "sha256": ["0" * 64], "source": ["a.png"]}
    table(tmp_path / "set" / "data", **columns)
    write(tmp_path / "set", {"metadata.jsonl": "x", "rejected.jsonl": "x", "report.html": "x"})
    found, _ = entries(opened(tmp_path / "set"))
    assert found == {"part/00000000-picture": Entry("part/00000000-picture", ("one",))}


def test_images_stored_as_numbers_are_read_too(tmp_path: Path) -> None:
    rows = pytest.importorskip("datasets").Dataset.from_dict({"image": [[[[255, 0, 0]] * 4] * 2], "text": ["x"]})
    rows.save_to_disk(str(tmp_path / "rows"))
    assert open_rgb(opened(tmp_path / "rows").read("00000000-picture")).getpixel((3, 1)) == (255, 0, 0)


def test_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the same name"):
        opened(table(tmp_path / "a"), table(tmp_path / "b"))


def test_objects_in_place_of_captions_stop_the_preparation(tmp_path: Path) -> None:
    source = opened(table(tmp_path, image=[RED, BLUE], text=[{"short": "a cat", "n": 1}, {"short": None, "n": 2}]))
    findings = Findings()
    source.entries([item.source for item in source.listing(findings).items], findings)
    with pytest.raises(ValueError, match=r"--caption_column\) \(1\): part/00000000-\w+ \(an object with short, n"):
        findings.raise_errors("", "")
    findings, source = Findings(), opened(table(tmp_path / "written", image=[RED], text=["['cat', 'dog']"]))
    source.entries([item.source for item in source.listing(findings).items], findings)
    with pytest.raises(ValueError, match=r"--caption_column\) \(1\): .* \(a list or an object written as text"):
        findings.raise_errors("", "")
