import json
from pathlib import Path

import pytest
import torch

from finetune.run.checkpoint import STATE_KEYS, Checkpoint, load_checkpoint, open_checkpoint, part_name, parts_of
from finetune.run.saving.write_checkpoint import put_in_place, tensor_writers, text_writers, write_files


def write_parts(folder: Path, num: int) -> Path:
    """Write a checkpoint of `num` processes with a weight each."""
    temporary, manifest = folder / "temporary", {}
    temporary.mkdir()
    for part in range(num):
        weight = {f"weight{part}": torch.full((2,), float(part))}
        optimizer = {"state": {part: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1.0}]}
        state = dict.fromkeys(STATE_KEYS) | {"step": 4}
        checkpoint = Checkpoint(weight, weight, optimizer, state)  # pyright: ignore[reportArgumentType]
        manifest |= write_files(temporary, tensor_writers(checkpoint, part, num) | text_writers(checkpoint, ""))
    put_in_place(temporary, folder / "step_000004", manifest)
    return folder / "step_000004"


def test_parts_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    path = write_parts(tmp_path, 3)
    assert open_checkpoint(path)["step"] == 4
    found = load_checkpoint(path)
    assert list(found.trained) == ["weight0", "weight1", "weight2"] and found.ema is not None
    assert float(found.trained["weight2"][0]) == 2.0
    assert list(found.optimizer["state"]) == [0, 1, 2]  # pyright: ignore[reportArgumentType]


def test_a_missing_or_unlisted_part_is_damage(tmp_path: Path) -> None:
    path = write_parts(tmp_path, 2)
    part = path / "trained-00002-of-00002.safetensors"
    part.unlink()
    with pytest.raises(ValueError, match=r"trained-00002-of-00002\.safetensors is missing"):
        open_checkpoint(path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest[part.name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"does not list trained\.safetensors"):
        open_checkpoint(path)


def test_a_single_part_has_the_plain_name() -> None:
    assert part_name("optimizer.pt", 0, 1) == "optimizer.pt"
    assert part_name("optimizer.pt", 1, 12) == "optimizer-00002-of-00012.pt"
    assert parts_of("a.pt", ["a-00001-of-00002.pt", "b-00002-of-00002.pt"]) == []
