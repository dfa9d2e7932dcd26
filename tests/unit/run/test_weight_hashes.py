import json
import os
import shutil
import time
from pathlib import Path

import pytest

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.file_stamps import file_stamps
from finetune.run.weight_hashes import Hashes, hashed_parts, refuse_changed_files

FAMILY = StableDiffusion()


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def settle(monkeypatch: pytest.MonkeyPatch, seconds: float = 60) -> None:
    """Advance the clock, as if the files were old."""
    now = time.time()
    monkeypatch.setattr("finetune.run.weight_hashes.time.time", lambda: now + seconds)


def hashes_of(model: Path, cache: Path, warnings: list[str] | None = None) -> Hashes:
    return hashed_parts(FAMILY, ModelSource(str(model)), cache, (warnings if warnings is not None else []).append)[1]


def records(cache: Path) -> list[Path]:
    return sorted((cache / "hashes").glob("*"))


def test_a_kept_hash_is_used_until_a_file_of_the_model_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = hashes_of(model, tmp_path)
    (record,) = records(tmp_path)
    marked = json.loads(record.read_text()) | {"vae": ["f" * 64]}
    record.write_text(json.dumps(marked))
    assert hashes_of(model, tmp_path) == marked
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    stat, copy = weights.stat(), tmp_path / "copy"
    shutil.copy(weights, copy)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.replace(weights)  # the same size and time of writing, as in an archive that was unpacked again
    assert hashes_of(model, tmp_path) == first


def test_what_was_written_a_moment_ago_is_not_kept(model: Path, tmp_path: Path) -> None:
    hashes_of(model, tmp_path)
    assert records(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"denoiser": ["x"], "vae": [], "text_encoders": []}'])
def test_a_damaged_record_is_made_again(
    content: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = hashes_of(model, tmp_path)
    (record,) = records(tmp_path)
    written = record.read_text()
    record.write_text(content)
    assert hashes_of(model, tmp_path) == first
    assert [path.read_text() for path in records(tmp_path)] == [written]


def test_what_a_kill_left_of_a_record_is_removed_once_it_is_old(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    (tmp_path / "hashes").mkdir()
    old, new = tmp_path / "hashes" / ".tmp-old", tmp_path / "hashes" / ".tmp-new"
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    hashes_of(model, tmp_path)
    left = records(tmp_path)
    assert new in left and old not in left and len(left) == 2


def test_a_cache_that_cannot_be_written_to_costs_only_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    (tmp_path / "cache").write_text("a file is in the way")
    warnings: list[str] = []
    assert hashes_of(model, tmp_path / "cache", warnings).keys() == {"denoiser", "vae", "text_encoders"}
    assert len(warnings) == 1 and "hashes" in warnings[0]


def test_a_file_that_is_replaced_while_the_run_is_going_is_named(model: Path) -> None:
    source, file = ModelSource(str(model)), model / "vae" / "diffusion_pytorch_model.safetensors"
    stamps = file_stamps(source)
    file.chmod(0o600)  # the same content
    refuse_changed_files(source, stamps)
    file.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=f"1 file .*{file.name}.*Restore"):
        refuse_changed_files(source, stamps)
