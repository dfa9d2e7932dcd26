import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from finetune.run.checkpoint import load_checkpoint
from tests.faults.kills.injection import LimitMemoryWhenOpened
from tests.support.damage import change_weight
from tests.support.runs import Options, assert_same_end, completed, metrics, refused


@pytest.mark.parametrize(("value", "accumulation"), [(math.nan, 1), (math.inf, 2)])
def test_a_damaged_base_model_stops_the_first_step(
    value: float, accumulation: int, small_run: Options, tmp_path: Path
) -> None:
    model, out = shutil.copytree(Path(str(small_run["model.source"])), tmp_path / "model"), tmp_path / "out"
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    change_weight(file, "conv_in.weight", lambda weight: weight[0, 0, 0, 0].fill_(value))
    options = small_run | {"model.source": model, "output.folder": out, "train.accumulation": accumulation}
    file = out / "nonfinite_step_000001_process0.json"
    refused("lora", options, tmp_path / "log", "loss of step 1", "not updated", file.name)
    evidence = json.loads(file.read_text())
    assert evidence["step"] == 1 and len(evidence["samples"]) == accumulation
    for sample in evidence["samples"]:
        assert sample["file_name"].endswith(".png") and 0 <= sample["timestep"] < 1000
    assert metrics(out) == [] and not (out / "checkpoints").exists()


@pytest.mark.parametrize(("lr", "accumulation"), [(1e20, 2), (1e39, 1)])
def test_weights_that_explode_never_reach_a_checkpoint(
    lr: float, accumulation: int, interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    """1e20 breaks the loss one step later, 1e39 the weights at once."""
    out = tmp_path / "out"
    options = interrupted | {"optim.lr": lr, "train.accumulation": accumulation, "checkpoint.every": 1}
    saved = "The checkpoint of step 4 is saved" if lr == 1e39 else "is saved"
    refused("lora", options, tmp_path / "log", "optim.lr", saved)
    for checkpoint in (out / "checkpoints").iterdir():
        for weight in load_checkpoint(checkpoint).trained.values():
            assert bool(torch.isfinite(weight).all()), checkpoint
    if lr == 1e39:  # nothing was saved, so the sound options continue from step 4
        completed("lora", interrupted, tmp_path / "log")
        assert_same_end(out, straight)


def test_running_out_of_memory_names_the_batch_and_loses_nothing(
    interrupted: Options, straight: Path, tmp_path: Path
) -> None:
    large = {"train.batch_size": 256, "cache.latents": False}
    prepare = LimitMemoryWhenOpened("metrics.jsonl", 40_000_000)
    words = ("out of memory in step 5", "256 images", "largest bucket", "train.batch_size", "The checkpoint of step 4")
    refused("lora", interrupted | large, tmp_path / "log", *words, prepare=prepare)
    completed("lora", interrupted, tmp_path / "log")
    assert_same_end(tmp_path / "out", straight)
