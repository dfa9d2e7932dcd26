import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from finetune.data import parquet as tables
from finetune.data.captions.reading import CaptionReading
from finetune.data.manifest import read_manifest
from finetune.data.parquet import read_image
from tests.support.images import captions, mistakes, picture, write

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def rows(**changes: Sequence[object]) -> dict[str, object]:
    data = [picture(colour) for colour in COLOURS]
    images = [{"bytes": content, "path": f"{colour}.png"} for content, colour in zip(data, COLOURS, strict=True)]
    columns: dict[str, object] = {"image": pyarrow.array(images, IMAGE), "width": [12] * 6, "height": [8] * 6}
    columns |= {
        "text": [f"a {colour} one" for colour in COLOURS],
        "source": [f"raw/{colour}.png" for colour in COLOURS],
    }
    columns |= {"captions_alt": [None, [], ["other"], None, None, None], "split": ["train", "validation", *[None] * 4]}
    columns |= {"weight": [None, 2.0, *[None] * 4], "repeats": [None, None, 3, None, None, None]}
    columns |= {"sha256": [hashlib.sha256(content).hexdigest() for content in data]} | changes
    return {name: values for name, values in columns.items() if values is not None}


def prepared(folder: Path, columns: Mapping[str, object] | None = None, name: str = "train-00000.parquet") -> str:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns or rows()), folder / "data" / name, row_group_size=2)
    return str(folder)


def test_a_prepared_table_lists_its_images(tmp_path: Path) -> None:
    manifest = read_manifest(prepared(tmp_path))
    first, second, third, *_ = manifest.records
    assert [record.file_name for record in manifest.records] == [f"data/train-00000.parquet#{n:08d}" for n in range(6)]
    assert (first.captions, first.width, first.height, first.split) == (("a red one",), 12, 8, "train")
    assert (second.weight, second.split, third.repeats) == (2.0, "validation", 3)
    assert third.captions == ("a blue one", "other")
    assert first.sha256 == hashlib.sha256(picture("red")).hexdigest()
    source = pickle.loads(pickle.dumps(manifest.source))
    assert [source.read(record.file_name) for record in manifest.records] == [picture(colour) for colour in COLOURS]


def test_tables_are_read_from_wherever_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "set")
    prepared(tmp_path / "set", name="train-00001.parquet")
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest("set")
    monkeypatch.chdir("/")
    assert len(manifest.records) == 12 and len({record.file_name for record in manifest.records}) == 12
    assert manifest.source.read("data/train-00001.parquet#00000002") == picture("blue")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert read_manifest(str(tmp_path / "moved")).fingerprint == manifest.fingerprint


def test_no_image_is_opened_to_list_them(tmp_path: Path) -> None:
    junk = pyarrow.array([{"bytes": b"junk", "path": None}] * 6, IMAGE)
    manifest = read_manifest(prepared(tmp_path, rows(image=junk)))
    assert len(manifest.records) == 6 and manifest.source.read(manifest.records[0].file_name) == b"junk"


def test_training_cuts_its_images_from_a_table(tmp_path: Path) -> None:
    from finetune.batches.pixels import record_pixels
    from finetune.batches.view import View

    manifest = read_manifest(prepared(tmp_path))
    view = View(width=8, height=8, left=0.5, top=0.5, flip=False)
    assert record_pixels(manifest.source, manifest.records[0], view)[:, 4, 4].tolist() == [1, -1, -1]
    prepared(tmp_path, rows(image=pyarrow.array([{"bytes": picture("pink"), "path": None}] * 6, IMAGE)))
    with pytest.raises(ValueError, match="changed"):
        record_pixels(manifest.source, manifest.records[0], view)


def test_captions_may_come_from_another_column_or_none(tmp_path: Path) -> None:
    folder = prepared(tmp_path, rows(short=["x"] * 6, captions_alt=None))
    assert set(captions(read_manifest(folder, reading=CaptionReading("short"))).values()) == {("x",)}
    assert set(captions(read_manifest(folder, captions="none")).values()) == {("",)}
    empty = prepared(tmp_path / "empty", rows(text=[""] * 6, captions_alt=None))
    assert set(captions(read_manifest(empty, captions="none")).values()) == {("",)}
    assert "caption_column to one of" in mistakes(folder, reading=CaptionReading("nothing"))
    assert "data.captions" in mistakes(folder, captions="folder")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("width", [12, 0, None, 12, 12, 12], "not sizes (2)"),
        ("width", ["12"] * 6, "not sizes (6)"),
        ("sha256", ["x" * 64] * 6, "sha256 is none (6)"),
        ("sha256", [b"x" * 32] * 6, "sha256 is none (6)"),
        ("text", ["x", " ", None, "x", "x", "x"], "without a caption (1)"),
        ("weight", [0.0] * 6, "weights"),
        ("image", ["a.png"] * 6, "holds string"),
    ],
)
def test_columns_of_the_wrong_kind_are_named(tmp_path: Path, column: str, values: Sequence[object], words: str) -> None:
    assert words in mistakes(prepared(tmp_path, rows(**{column: values})))


def test_a_table_that_preparation_did_not_write_is_no_reason_to_pass_over_images(tmp_path: Path) -> None:
    prepared(tmp_path, {"year": [1999]})
    write(tmp_path, {"a.png": picture(), "a.txt": "one"})
    assert captions(read_manifest(str(tmp_path))) == {"a.png": ("one",)}


def test_a_shard_that_differs_from_the_others_or_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    prepared(tmp_path, {"image": [b"x"]}, "train-00001.parquet")
    assert "train-00001.parquet has no column text, width" in mistakes(folder)
    path = tmp_path / "data" / "train-00001.parquet"
    path.write_bytes((tmp_path / "data" / "train-00000.parquet").read_bytes()[:-20])
    assert "not a whole Parquet file" in mistakes(folder)


@pytest.mark.parametrize("batch_bytes", [1, 300, 2**25])
@pytest.mark.parametrize("kind", [IMAGE, pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view()])
def test_rows_are_read_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pyarrow.DataType, batch_bytes: int
) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", batch_bytes)
    tables._opened.cache_clear()
    contents = [bytes([number]) * (number + 1) for number in range(50)]
    values = [{"bytes": data, "path": None} for data in contents] if kind == IMAGE else contents
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"x": list(range(50)), "image": pyarrow.array(values, kind)})
    parquet.write_table(table, path, row_group_size=20)
    orders = [np.arange(50), np.arange(50)[::-1], np.random.default_rng(0).permutation(50), np.arange(50) // 7 * 6]
    for row in np.concatenate(orders):
        assert read_image(str(path), "image", int(row)) == contents[row]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: read_image(str(path), "image", row), range(50)))
    assert found == contents
    for row in (-1, 50):
        with pytest.raises(ValueError, match="no row"):
            read_image(str(path), "image", row)


def test_damage_inside_a_table_costs_only_the_rows_there(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    contents = [os.urandom(2000) for _ in range(40)]
    parquet.write_table(pyarrow.table({"image": contents}), path, row_group_size=10, write_page_checksum=False)
    data = bytearray(path.read_bytes())
    start = data.index(contents[15][:20])
    data[start - 4 : start] = b"\xff" * 4  # the length of an image
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            read_image(str(path), "image", 15)
        assert read_image(str(path), "image", 5) == contents[5]
        assert read_image(str(path), "image", 25) == contents[25]


def test_a_table_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for data in (b"first", b"second one"):
        parquet.write_table(pyarrow.table({"image": [data]}), path)
        os.utime(path, ns=(len(data), len(data)))
        assert read_image(str(path), "image", 0) == data
