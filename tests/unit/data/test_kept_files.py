import hashlib
import pickle
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from finetune.config.mask import MaskConfig
from finetune.data.folder import FolderSource
from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import read_manifest
from tests.support.images import encoded, picture, write
from tests.unit.data.test_masks import white


@pytest.mark.parametrize("kind", ["file", "alpha"])
def test_files_that_were_read_are_not_read_again(tmp_path: Path, kind: Literal["alpha", "file"]) -> None:
    files = {"a.png": picture(), "a-masklabel.png": white(), "a.txt": "x"}
    if kind == "alpha":
        files = {"a.png": encoded(Image.new("RGBA", (12, 8), (9, 9, 9, 200))), "a.txt": "x"}
    kept = KeptFiles(10**6)
    manifest = read_manifest(write(tmp_path, files), mask=MaskConfig(kind), kept=kept)
    (record,) = manifest.records
    assert record.mask and manifest.kept is kept
    for name in files:
        (tmp_path / name).unlink()
    mask = files[record.mask.file_name]
    assert kept.read(manifest.source, "a.png", record.sha256) == files["a.png"]
    assert kept.read(manifest.source, record.mask.file_name, record.mask.sha256) == mask
    kept.release()
    with pytest.raises(ValueError, match=r"a\.png was removed while the run was going"):
        kept.read(manifest.source, "a.png", record.sha256)


def test_files_beyond_the_limit_are_read_again_and_their_changes_noticed(tmp_path: Path) -> None:
    red, blue = picture(), picture("blue")
    kept = KeptFiles(len(red) + len(blue) - 1)
    manifest = read_manifest(write(tmp_path, {"a.png": red, "b.png": blue}), captions="none", kept=kept)
    write(tmp_path, {"a.png": b"1", "b.png": b"2"})
    results = []
    for record, data in zip(manifest.records, (red, blue), strict=True):
        try:
            results.append(kept.read(manifest.source, record.file_name, record.sha256) == data)
        except ValueError as error:
            results.append("was changed while the run was going" in str(error))
            results.append("changed")
    assert sorted(map(str, results)) == ["True", "True", "changed"]


def test_another_process_gets_an_empty_store() -> None:
    kept = KeptFiles(10)
    kept.add(b"abc")
    copy = pickle.loads(pickle.dumps(kept))
    with pytest.raises(ValueError, match="was removed"):
        copy.read(FolderSource("/nowhere"), "a.png", hashlib.sha256(b"abc").hexdigest())
