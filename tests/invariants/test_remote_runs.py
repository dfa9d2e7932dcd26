import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.remote import Bucket, bucket, shards, table, tar
from tests.support.runs import Options, assert_same_end, completed, kill_after_three_steps, refused


@pytest.fixture(scope="module")
def storage() -> Iterator[Bucket]:
    with bucket() as found:
        yield found


@pytest.fixture(scope="module")
def beside(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images with text files beside them."""
    folder = tmp_path_factory.mktemp("beside") / "images"
    shutil.copytree(pictures, folder)
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    (folder / "metadata.jsonl").unlink()
    return folder


@pytest.fixture
def short_run(tiny_run: Options) -> Options:
    return tiny_run | {"train.steps": 6, "validation.fraction": 0.2, "data.flip": True, "checkpoint.every": 2}


@pytest.fixture(scope="module")
def tables(beside: Path) -> dict[str, bytes]:
    """The images as two tables, one of them compressed."""
    names = sorted(path.name for path in beside.glob("*.png"))
    images = {name: (beside / name).read_bytes() for name in names}
    captions = [(beside / name).with_suffix(".txt").read_text() for name in names]
    parts = [(names[:8], captions[:8]), (names[8:], captions[8:])]
    first, second = [({name: images[name] for name in part}, texts) for part, texts in parts]
    return {
        "train-0.parquet": table(*first, compression="none", use_dictionary=False),
        "train-1.parquet": table(*second),
    }


def test_a_run_on_remote_shards_is_that_on_a_folder_also_after_a_kill(
    storage: Bucket, beside: Path, tables: dict[str, bytes], short_run: Options, tmp_path: Path
) -> None:
    local, archives, rows = tmp_path / "local", tmp_path / "archives", tmp_path / "rows"
    log, environment = tmp_path / "log", storage.environment
    completed("lora", short_run | {"data.folder": beside, "output.folder": local}, log)

    remote = short_run | {"data.folder": storage.put("archives", shards(beside, 3)), "cache.folder": tmp_path / "cache"}
    remote |= {"output.folder": archives}
    kill_after_three_steps("lora", remote, log, environment=environment)
    uncached = {"cache.latents": False, "data.num_workers": 1}
    ended = completed("lora", remote | uncached, log, environment=environment)
    assert "once (" not in ended.output and "resum" in ended.output.lower()
    assert_same_end(local, archives)

    remote |= {"data.folder": storage.put("rows", tables), "output.folder": rows}
    completed("lora", remote, log, environment=environment)
    assert_same_end(local, rows)


def test_a_changed_shard_is_named_before_a_run_resumes(
    storage: Bucket, beside: Path, short_run: Options, tmp_path: Path
) -> None:
    files = shards(beside, 2)
    remote = short_run | {"data.folder": storage.put("changing", files), "train.steps": 1, "validation.fraction": 0}
    completed("lora", remote, tmp_path / "log", environment=storage.environment)
    storage.put("changing", {"00001.tar": tar({"new.png": next(beside.glob("*.png")).read_bytes(), "new.txt": b"new"})})
    more = remote | {"train.steps": 2}
    output = refused("lora", more, tmp_path / "log", "00001.tar/new.png", environment=storage.environment)
    assert "reading 1 shard of s3://images/changing once" in output and "1 of 2 known" in output
