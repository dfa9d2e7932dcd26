"""Runs that start from a LoRA file."""

from pathlib import Path

import safetensors.torch
from safetensors import safe_open

from tests.support.runs import Options, assert_refused, completed, run


def test_a_resumed_run_is_the_straight_one_and_needs_the_same_file(tiny_run: Options, tmp_path: Path) -> None:
    first = tiny_run | {"train.steps": 2, "output.dtype": "fp32"}
    completed("lora", first | {"output.name": "first"}, tmp_path / "log")
    file = tmp_path / "start.safetensors"
    file.write_bytes((tmp_path / "out" / "export" / "first.safetensors").read_bytes())
    options = first | {"lora.start": file, "lora.rank": 8, "output.name": "ink", "optim.schedule": "constant"}
    straight = options | {"output.folder": tmp_path / "straight", "train.steps": 4}
    completed("lora", straight, tmp_path / "log")
    stopped = options | {"output.folder": tmp_path / "stopped"}
    completed("lora", stopped, tmp_path / "log")
    completed("lora", stopped | {"train.steps": 4}, tmp_path / "log")
    exported = [tmp_path / name / "export" / "ink.safetensors" for name in ("straight", "stopped")]
    one, other = map(safetensors.torch.load_file, exported)
    assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    assert {value.shape[0] for key, value in one.items() if key.endswith("lora_down.weight")} == {4}
    with safe_open(exported[0], framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["ss_start_weights"] == "start.safetensors" and len(metadata["ss_start_sha256"]) == 64
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({key: value * 2 for key, value in tensors.items()}, file)
    ended = run("lora", stopped | {"train.steps": 6}, tmp_path / "log")
    assert_refused(ended, "lora.start: the file is not the one that", "other content")
