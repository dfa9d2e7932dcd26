import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import parse
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig
from finetune.config.train import TrainConfig
from tests.support.runs import SUBJECT, Options, assert_same_end, completed, flags

NAMES = ["out-{:06d}.safetensors", "pytorch_lora_weights.safetensors"]


def same_tensors(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_have_the_files_of_the_export_and_train_as_without(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | {"train.steps": 4, "checkpoint.every": 1, "checkpoint.keep": 2, "train.ema_decay": 0.5}
    options |= {"tokens.names": ("<zkw>",), "data.template": "{caption} <zkw>", "lora.alpha": 2.0, "output.name": "out"}
    output = completed("lora", options | {"checkpoint.export": True}, tmp_path / "log").output
    for step in (3, 4):
        folder = tmp_path / "out" / "checkpoints" / f"step_{step:06d}" / "export"
        names = [name.format(step) for name in NAMES]
        assert sorted(path.name for path in folder.iterdir()) == ["embeddings", *names]
        assert f"step_{step:06d}/export: read again, no layer's change differs by more than" in output
        with safe_open(folder / names[0], "pt") as file:
            assert file.metadata()["ss_steps"] == str(step)
    assert len(list((tmp_path / "out" / "checkpoints").glob("*/export"))) == 2
    last, whole = tmp_path / "out" / "checkpoints" / "step_000004" / "export", tmp_path / "out" / "export"
    assert same_tensors(last / "out-000004.safetensors", whole / "out.safetensors")
    assert same_tensors(last / NAMES[1], whole / NAMES[1])
    earlier = load_file(last.parents[1] / "step_000003" / "export" / NAMES[1])
    assert any(not torch.equal(value, earlier[name]) for name, value in load_file(last / NAMES[1]).items())
    (token,) = (last / "embeddings").glob("*.safetensors")
    assert same_tensors(token, whole / "embeddings" / token.name)
    completed("lora", options | {"output.folder": tmp_path / "plain"}, tmp_path / "log")
    assert not list((tmp_path / "plain" / "checkpoints").glob("*/export"))
    assert_same_end(tmp_path / "out", tmp_path / "plain")
    shutil.rmtree(last)  # the files belong to the user
    assert "at step 4 of 5" in completed("lora", options | {"train.steps": 5}, tmp_path / "log").output


@pytest.mark.parametrize("kind", ["lokr", "oft"])
def test_relatives_of_lora_have_the_files_of_the_export(kind: str, tiny_run: Options, tmp_path: Path) -> None:
    """Compare the last checkpoint's files with the export. That of other programs is there for LoKr alone."""
    options = tiny_run | {"train.steps": 1, "checkpoint.export": True, "lora.kind": kind, "output.name": "out"}
    if kind == "oft":
        options = {key: value for key, value in options.items() if key != "lora.rank"} | {"lora.block_size": 4}
    completed("lora", options, tmp_path / "log")
    last, whole = tmp_path / "out" / "checkpoints" / "step_000001" / "export", tmp_path / "out" / "export"
    single = [("out-000001.safetensors", "out.safetensors")] if kind == "lokr" else []
    assert sorted(path.name for path in last.iterdir()) == [*(name for name, _ in single), "peft"]
    for name, exported in [*single, ("peft/unet/adapter_model.safetensors",) * 2]:
        assert same_tensors(last / name, whole / exported)
    config = "peft/unet/adapter_config.json"  # peft shortens the names of layers in those it was given
    first, second = (json.loads((each / config).read_text()) | {"target_modules": []} for each in (last, whole))
    assert first == second
    assert all(safe_open(last / name, "pt").metadata()["ss_steps"] == "1" for name, _ in single)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (LoRATrainConfig, {"lora.dora": True}, "lora.dora true, whose files are written"),
        (LoRATrainConfig, {"lora.init": "pissa"}, "lora.init pissa"),
        (FullTrainConfig, {}, "no small file"),
        (PretrainConfig, {}, "no small file"),
        (DreamBoothTrainConfig, SUBJECT | {"method": "full"}, "no small file"),
    ],
)
def test_weights_without_small_files_are_refused(kind: type[TrainConfig], options: Options, words: str) -> None:
    needed: Options = {"data.folder": "images", "output.folder": "out", "checkpoint.export": True}
    if kind is not PretrainConfig:
        needed["model.source"] = "model"
    with pytest.raises(ValueError, match=words):
        parse(kind, flags(needed | options), program="test")
