import json
from pathlib import Path

import pytest

from finetune.data.remote.storage import StorageError
from finetune.files import size_and_sha256
from finetune.run_folder.mirror.storage import MirrorStorage
from tests.support.mirrors import FailsAfter, Mirrored


def test_a_mirror_has_the_checkpoints_that_the_folder_has(run: Mirrored) -> None:
    upload = run.started()
    upload.upload()
    assert run.steps_there() == [2, 4]
    for step in (6, 8):
        run.save(step)
        run.rotate()
        upload.upload()
    assert run.steps_there() == [6, 8]
    assert not [name for name in run.storage.sizes() if "step_000002/" in name or "step_000004/" in name]


def test_a_machine_with_one_checkpoint_leaves_the_older_one_in_the_mirror(run: Mirrored) -> None:
    run.started().upload()
    other = run.elsewhere()
    other.started().upload()
    assert run.steps_there() == [2, 4]
    other.save(6)
    other.started().upload()
    assert run.steps_there() == [4, 6]


def test_checkpoints_of_lost_steps_and_half_of_one_are_removed(run: Mirrored) -> None:
    upload = run.started()
    upload.upload()
    run.storage.write("checkpoints/step_000003/optimizer.pt", b"half")
    for name in ("optimizer.pt", "manifest.json"):
        run.storage.write(f"checkpoints/step_000009/{name}", b"{}")
    upload.upload()
    assert run.steps_there() == [2, 4]
    assert not [name for name in run.storage.sizes() if "step_000003" in name or "step_000009" in name]


def test_only_what_changed_is_uploaded(run: Mirrored) -> None:
    run.started().upload()
    storage = FailsAfter(run.url, waits=(), left=[0])
    upload = run.started(storage)
    upload.upload()  # nothing changed, so nothing fails
    (run.folder / "wandb").mkdir()
    for name in ("wandb/run.db", ".lock", "previews/.tmp-1.png"):
        (run.folder / name).write_text("not mirrored")
    upload.upload()
    (run.folder / "previews" / "step_000002.png").unlink()
    (run.folder / "run.log").write_text("step 4")
    storage.left[0] = 4  # the record, the log, the removed image, the record
    upload.upload()
    assert storage.left[0] == 0
    assert run.storage.reading.read_whole("run.log") == b"step 4"
    assert "previews/step_000002.png" not in run.storage.sizes()


def test_a_checkpoint_of_the_same_step_replaces_the_one_there(run: Mirrored) -> None:
    upload = run.started()
    upload.upload()
    run.save(4)
    place = run.folder / "checkpoints" / "step_000004"
    (place / "optimizer.pt").write_text("others")
    manifest = (place / "manifest.json").read_text()
    entry = size_and_sha256(place / "optimizer.pt")
    (place / "manifest.json").write_text(json.dumps(json.loads(manifest) | {"optimizer.pt": entry}))
    upload.upload()
    other = run.elsewhere()
    other.fetch()
    assert (other.folder / "checkpoints" / "step_000004" / "optimizer.pt").read_text() == "others"


def test_a_checkpoint_that_differs_from_its_manifest_stays_here(run: Mirrored) -> None:
    (run.folder / "checkpoints" / "step_000004" / "optimizer.pt").write_text("torn")
    with pytest.raises(StorageError, match="differs from its manifest"):
        run.started().upload()
    assert run.steps_there() == []


def test_storage_that_refuses_a_write_is_named_with_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    storage = MirrorStorage(f"file://{tmp_path}/blocked/run", waits=())
    with pytest.raises(StorageError, match=r"output.mirror: file://.* could not be written .*AWS_ENDPOINT_URL"):
        storage.refuse_unwritable()
    with pytest.raises(ValueError, match=r"output.mirror: gs://.* pip install .*gcsfs"):
        MirrorStorage("gs://bucket/run").refuse_unwritable()
