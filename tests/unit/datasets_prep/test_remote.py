import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datasets_prep.__main__ import refuse_url, report
from datasets_prep.config import PrepConfig, SplitConfig, WriteConfig
from datasets_prep.decisions import Decision, append_decision
from datasets_prep.output import upload as uploading
from datasets_prep.pipeline import prepare
from datasets_prep.sources import fetch as fetching
from finetune.config.parse.command_line import parse
from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import Record, read_manifest
from finetune.data.remote import storage as remote_storage
from finetune.data.remote.storage import RemoteFile, Storage, StorageError
from finetune.data.remote.upload_mark import MARK
from tests.support.images import drawn, encoded, write
from tests.support.prepared import kept_and_left_out, rows_of
from tests.support.remote import InMemory, table, tar

IMAGES = {f"{seed}.png": encoded(drawn(seed)) for seed in range(5)}
FILES: dict[str, bytes] = IMAGES | {f"{seed}.txt": f"a drawing, {seed}".encode() for seed in range(5)}
FILES |= {"sub/copy.png": IMAGES["1.png"], "sub/copy.txt": b"the same again", "broken.jpg": b"no image"}
SPLIT = SplitConfig(0.4, "picture")


@pytest.fixture
def storage() -> Iterator[InMemory]:
    found = InMemory()
    yield found
    found.clear()


@pytest.fixture
def config(storage: InMemory, tmp_path: Path) -> PrepConfig:
    """A preparation from one URL to another."""
    url = storage.put("raw", FILES)
    return PrepConfig((url,), Path("memory://images/prepared"), workers=1, work=tmp_path / "work", split=SPLIT)


def names(url: str) -> list[str]:
    return [file.name for file in Storage(url).files()]


def described(record: Record) -> tuple[object, ...]:
    return record.file_name, record.captions, record.width, record.height, record.sha256, record.split


def test_a_dataset_prepared_between_urls_is_that_of_folders(config: PrepConfig, tmp_path: Path) -> None:
    before = {file.name: file for file in Storage(config.source[0]).all_files()}
    outcome = prepare(config)
    local = PrepConfig((write(tmp_path / "raw", dict(FILES)),), tmp_path / "local", workers=1, split=SPLIT)
    prepare(replace(local, write=WriteConfig("parquet")))
    for name in ("metadata.jsonl", "rejected.jsonl", "README.md"):
        read = Storage("memory://images/prepared")
        assert read.read(name, 0, read.file(name).size) == (local.output / name).read_bytes()
    assert (outcome.num_pictures, outcome.rejected) == (5, {"exact_duplicate": 1, "not_an_image": 1})
    assert {file.name: file for file in Storage(config.source[0]).all_files()} == before

    here = read_manifest(str(local.output))
    there = read_manifest("memory://images/prepared", kept=KeptFiles(cache=tmp_path / "cache"))
    assert list(map(described, there.records)) == list(map(described, here.records))
    assert {record.split for record in there.records} == {"train", "validation"} and there.warnings == here.warnings
    assert [there.source.read(each.file_name) for each in there.records] == [
        here.source.read(each.file_name) for each in here.records
    ]


def test_only_what_is_new_is_fetched_and_uploaded(
    config: PrepConfig, storage: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(config).is_new
    assert "fetching 13 of 13 files" in capsys.readouterr().err
    assert not prepare(config).is_new
    assert capsys.readouterr().err == ""
    storage.put("raw", {"5.png": encoded(drawn(5)), "5.txt": b"a sixth"})
    assert prepare(config).num_pictures == 6
    assert "fetching 2 of 15 files" in capsys.readouterr().err
    shutil.rmtree(config.folder)  # as on another machine
    assert prepare(config).num_pictures == 6
    assert capsys.readouterr().err == ""
    storage._system.rm("/images/raw/sub", recursive=True)
    assert prepare(config).num_pictures == 6
    assert "sub" not in [path.name for path in config.work_folder("fetched", config.source[0]).iterdir()]


@pytest.mark.parametrize("form", ["tables", "archives"])
def test_tables_and_archives_below_a_url_are_prepared_as_on_a_disk(
    storage: InMemory, form: str, tmp_path: Path
) -> None:
    captions = [f"a drawing, {seed}" for seed in range(5)]
    texts = {name: data for name, data in FILES.items() if "/" not in name and name != "broken.jpg"}
    files = {"a/0.parquet": table(IMAGES, captions)} if form == "tables" else {"0.tar": tar(texts), "1.tar": tar({})}
    url = storage.put(form, files)
    remote = PrepConfig((url,), tmp_path / "remote", workers=1, work=tmp_path / "work")
    local = PrepConfig((write(tmp_path / form, dict(files)),), tmp_path / "local", workers=1)
    assert prepare(remote).num_pictures == prepare(local).num_pictures == 5
    assert [row["text"] for row in rows_of(remote.output)] == captions
    assert rows_of(remote.output) == rows_of(local.output)
    assert rows_of(remote.output, "rejected.jsonl") == rows_of(local.output, "rejected.jsonl")
    one_file = replace(remote, source=(f"{url}/{next(iter(files))}",), output=tmp_path / "one")
    assert prepare(one_file).num_pictures == 5


def test_an_interrupted_upload_is_not_a_dataset_and_is_completed(
    config: PrepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file = Storage.write

    def stop(self: Storage, name: str, content: bytes | Path) -> None:
        if name == "metadata.jsonl":
            raise KeyboardInterrupt
        write_file(self, name, content)

    monkeypatch.setattr(uploading, "BLOCK_FILES", 1)
    monkeypatch.setattr(Storage, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert names("memory://images/prepared") == ["data/train-00000.parquet", "data/validation-00000.parquet"]
    with pytest.raises(ValueError, match=r"data.folder: the upload of .*has not ended"):
        read_manifest("memory://images/prepared", kept=KeptFiles(cache=tmp_path / "cache"))
    again = replace(config, source=("memory://images/prepared",), output=Path("memory://images/second"))
    with pytest.raises(ValueError, match=r"source: the upload of .*has not ended"):
        prepare(again)
    monkeypatch.setattr(Storage, "write", write_file)
    capsys.readouterr()
    assert prepare(config).is_new
    assert "uploading 4 files" in capsys.readouterr().err  # no table is sent twice
    assert len(read_manifest("memory://images/prepared", kept=KeptFiles(cache=tmp_path / "cache")).records) == 5
    Storage("memory://images/prepared").remove("data/validation-00000.parquet")
    with pytest.raises(ValueError, match=r"are missing or have another size: data/validation"):
        read_manifest("memory://images/prepared", kept=KeptFiles(cache=tmp_path / "cache"))
    assert prepare(config).is_new and "data/validation-00000.parquet" in names("memory://images/prepared")


def test_what_others_wrote_at_the_output_is_never_replaced(config: PrepConfig, storage: InMemory) -> None:
    storage.put("other", {"notes.txt": b"mine"})
    with pytest.raises(ValueError, match=r"did not write: notes.txt"):
        prepare(replace(config, output=Path("memory://images/other")))
    prepare(config)
    storage.put("prepared", {"notes.txt": b"mine", "metadata.jsonl": b"edited"})
    with pytest.raises(ValueError, match=r"would be lost: metadata.jsonl"):
        prepare(config)
    assert not [file for file in Storage("memory://images/other").all_files() if file.name != "notes.txt"]
    storage.put("prepared", {MARK: b"[]"})
    with pytest.raises(ValueError, match=r"was not written by this version"):
        prepare(config)


def test_files_that_are_no_longer_listed_go_and_others_stay(config: PrepConfig, storage: InMemory) -> None:
    prepare(config)
    storage.put("prepared", {"notes.txt": b"mine"})
    assert "data/validation-00000.parquet" in names("memory://images/prepared")
    prepare(replace(config, split=SplitConfig()))
    assert "data/validation-00000.parquet" not in names("memory://images/prepared")
    assert {"notes.txt", "data/train-00000.parquet"} <= {*names("memory://images/prepared")}
    storage.put("prepared", {"decisions.jsonl": b"mine"})
    sha256 = rows_of(config.folder)[0]["sha256"]
    append_decision(config.folder / "decisions.jsonl", Decision(sha256, "0.png", "drop"))
    with pytest.raises(ValueError, match=r"would replace: decisions.jsonl"):
        prepare(config)


def test_decisions_reach_other_machines(config: PrepConfig) -> None:
    prepare(config)
    row = rows_of(config.folder)[0]
    append_decision(config.folder / "decisions.jsonl", Decision(row["sha256"], row["source"], "drop"))
    assert prepare(config).rejected["dropped_by_user"] == 1
    shutil.rmtree(config.folder)
    assert prepare(config).rejected["dropped_by_user"] == 1


def test_an_object_that_cannot_be_read_costs_only_itself(
    config: PrepConfig, storage: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Storage.read
    monkeypatch.setattr(remote_storage, "WAITS", ())

    def fail(self: Storage, name: str, start: int, stop: int) -> bytes:
        if name == "2.png":
            raise StorageError("source: no answer")
        return read(self, name, start, stop)

    monkeypatch.setattr(Storage, "read", fail)
    storage.put("raw", {"a//b.png": IMAGES["3.png"], f"{'x' * 250}.png": IMAGES["3.png"], ".hidden/c.png": b""})
    local = replace(config, output=tmp_path / "out")
    outcome = prepare(local)
    kept, left_out = kept_and_left_out(local.output)
    assert len(kept) == 4 and "hidden files and folders" in "".join(outcome.notices)
    found = {name: row["detail"] for name, row in left_out.items() if row["reason"] == "unreadable"}
    assert found["2.png"] == "it could not be fetched: source: no answer"
    assert "a//b" in found["a//b.png"] and "too long" in found[f"{'x' * 250}.png"] and len(found) == 3
    monkeypatch.setattr(Storage, "read", read)
    assert prepare(local).num_pictures == 5
    monkeypatch.setattr(Storage, "read", lambda *_: (_ for _ in ()).throw(StorageError("no answer")))
    monkeypatch.setattr(fetching, "MOST_LOST_IN_A_ROW", 3)
    with pytest.raises(StorageError, match="3 files in a row cannot be read"):
        prepare(replace(local, work=tmp_path / "elsewhere"))


def test_names_that_a_folder_cannot_hold_are_listed() -> None:
    files = [RemoteFile(name, 1, "") for name in ("A.png", "a.png", "b", "b/c.png", "d//e.png", "f.png")]
    kept, lost = fetching.with_paths(files, is_case_blind=True)
    assert [file.name for file in kept] == ["A.png", "b", "f.png"]
    assert [each.source for each in lost] == ["a.png", "b/c.png", "d//e.png"]
    assert [file.name for file in fetching.with_paths(files)[0]] == ["A.png", "a.png", "b", "f.png"]


def test_what_cannot_work_is_refused_before_anything_is_fetched(
    config: PrepConfig, storage: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("texts", {"a.md": b"text"})
    storage.put("raw2/raw", {"a.png": IMAGES["0.png"]})
    raw = "memory://images/raw"
    for change, words in [
        ({"output": Path("memory://images/raw/prepared")}, "contain each other"),
        ({"output": Path("memory://images/raw")}, "contain each other"),
        ({"output": Path("memory://images")}, "contain each other"),
        ({"source": (raw, str(tmp_path))}, "got URLs and also paths"),
        ({"source": (raw, "memory://images/raw2/raw")}, "same last name"),
        ({"source": (raw, f"{raw}/sub")}, "contain each other"),
        ({"source": ("memory://images/texts",)}, "no images, .parquet or .tar files below memory://images/texts"),
        ({"source": ("memory://images/absent",)}, "of 0 files"),
        ({"source": (f"{raw}/0.png",)}, "a single image"),
        ({"source": ("gs://bucket/raw",)}, r"source: gs://bucket/raw needs .*gcsfs"),
        ({"source": ("nothing://a/b",), "output": Path("nothing://c/d")}, "source: (.|\n)*output: nothing://c/d"),
    ]:
        with pytest.raises(ValueError, match=words):
            prepare(replace(config, **change))
    for change in ({"engine": "ray"}, {"shard": "1/2"}):
        with pytest.raises(ValueError, match=r"work: got none with .*all machines see"):
            replace(config, work=None, **change)
    with pytest.raises(ValueError, match="is in the output"):
        replace(config, output=tmp_path / "out", work=tmp_path / "out/work")
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ValueError, match=r"work: .*0.00 GB are free"):
        prepare(config)
    assert not list(tmp_path.rglob("*.png"))


def test_the_command_takes_urls_and_says_where_to_look(config: PrepConfig, tmp_path: Path) -> None:
    arguments = ["--source", "s3://bucket/raw", "--output", "s3://bucket/prepared/", "--work", str(tmp_path)]
    parsed = parse(PrepConfig, arguments, program="prep")
    assert (parsed.source, parsed.url) == (("s3://bucket/raw",), "s3://bucket/prepared")
    assert parsed.folder.is_relative_to(tmp_path) and parsed.folder.name == "prepared"
    text = "\n".join(report(config, prepare(config)))
    assert "memory://images/prepared: 5 images" in text and "--data.folder memory://images/prepared" in text
    assert f"review {config.folder}" in text and "Note: recipes" not in text
    with pytest.raises(ValueError, match=r"review: s3://bucket/prepared is in remote storage"):
        refuse_url("review", Path("s3://bucket/prepared"))


def test_a_folder_of_images_is_uploaded_on_request(config: PrepConfig) -> None:
    folder = replace(config, write=WriteConfig("folder"), split=SplitConfig())
    text = "\n".join(report(folder, prepare(folder)))
    uploaded = names("memory://images/prepared")
    assert len([name for name in uploaded if name.startswith("images/")]) == 5 and "Note: recipes read tables" in text
    mark = Storage("memory://images/prepared")
    assert json.loads(mark.read(MARK, 0, mark.file(MARK).size))["is_whole"] is True
