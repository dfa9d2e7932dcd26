from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datasets_prep.config import PrepConfig
from datasets_prep.pipeline import prepare
from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import read_manifest
from finetune.data.remote import storage as remote_storage
from finetune.data.remote.storage import BLOCK, Storage
from tests.support.images import drawn, encoded, write
from tests.support.prepared import rows_of
from tests.support.remote import BUCKET, Bucket, bucket

FILES: dict[str, bytes] = {f"a/{seed}.png": encoded(drawn(seed)) for seed in range(4)}
FILES |= {f"a/{seed}.txt": f"a drawing, {seed}".encode() for seed in range(4)}
FILES |= {"a/ü #?%.png": encoded(drawn(7)), "large.bin": bytes(BLOCK + 1), "empty.png": b""}


@pytest.fixture(scope="module")
def storage() -> Iterator[Bucket]:
    pytest.importorskip("moto", reason="moto is not installed")
    with bucket() as found:
        yield found


@pytest.mark.slow
def test_images_in_a_bucket_become_a_dataset_in_it(
    storage: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = storage.put("raw", FILES)
    storage.client.put_object(Bucket=BUCKET, Key="raw/a/", Body=b"")  # as consoles make folders
    before = Storage(url).all_files()
    remote = PrepConfig((url,), Path(f"s3://{BUCKET}/prepared"), workers=1, work=tmp_path / "work")
    local = PrepConfig((write(tmp_path / "raw", dict(FILES)),), tmp_path / "local", workers=1)
    assert prepare(remote).rejected == prepare(local).rejected == {"empty_file": 1, "not_an_image": 1}
    captions = {row["source"]: row["text"] for row in rows_of(local.output)}
    manifest = read_manifest(f"s3://{BUCKET}/prepared", kept=KeptFiles(cache=tmp_path / "cache"))
    found = read_manifest(str(remote.folder))
    assert [(each.file_name, each.captions, each.sha256) for each in manifest.records] == [
        (each.file_name, each.captions, each.sha256) for each in found.records
    ]
    assert {row["source"]: row["text"] for row in rows_of(remote.folder)} == captions
    assert Storage(url).all_files() == before
    capsys.readouterr()
    assert not prepare(remote).is_new and capsys.readouterr().err == ""
    storage.put("raw", {"a/5.png": encoded(drawn(5))})
    assert prepare(remote).num_pictures == 6
    assert "fetching 1 of 12 files" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bucket_that_is_absent_is_named(storage: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_storage, "WAITS", ())
    url = storage.put("few", FILES)
    config = PrepConfig((url,), tmp_path / "out", workers=1, work=tmp_path / "work")
    with pytest.raises(FileNotFoundError, match=r"source: s3://absent/raw is not there"):
        prepare(replace(config, source=("s3://absent/raw",)))
    with pytest.raises(FileNotFoundError, match=r"output: s3://absent/out is not there"):
        prepare(replace(config, output=Path("s3://absent/out")))
