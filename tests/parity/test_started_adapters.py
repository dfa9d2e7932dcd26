"""Training that starts from LoRA files of any layout."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.show import read
from finetune.methods.lora.adapters import adapter_layers
from finetune.methods.lora.method import LoRA
from finetune.models.family import ModelSource, Network
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, Exported, fresh

RANK, ALPHA = 4, 6.5
"""Of the kind "lora"."""


def started(source: ModelSource, path: Path, text_encoder: bool = True, **options: object) -> tuple[Tensor, Network]:
    """Start a network from a file. Returns its output and the network."""
    components = fresh(source)
    method = LoRA(LoRAConfig(start=path, **options), text_encoder)  # pyright: ignore[reportArgumentType]
    network = method.network(FAMILY, components)
    method.attach(network, 0)
    return prediction(FAMILY, components), network


def warnings(source: ModelSource, path: Path, text_encoder: bool = True, **options: object) -> list[str]:
    method = LoRA(LoRAConfig(start=path, **options), text_encoder)  # pyright: ignore[reportArgumentType]
    return method.check(FAMILY, fresh(source))


def live(exported: Exported) -> Tensor:
    return prediction(FAMILY, exported.model.components)


def rewritten(exported: Exported, folder: Path, name: str, rename: Callable[[str], str]) -> Path:
    tensors, _ = read(exported.folder / name)
    safetensors.torch.save_file({rename(key): value for key, value in tensors.items()}, folder / "other.safetensors")
    return folder / "other.safetensors"


def oldest_diffusers(key: str) -> str:
    """Name a tensor as diffusers 0.15 did."""
    key = re.sub(r"\.(attn[12])\.(to_\w+)(?:\.0)?\.lora_", r".\1.processor.\2_lora_", key)
    key = key.replace("_lora_A", "_lora.down").replace("_lora_B", "_lora.up")
    return key.replace(".lora_A", ".lora_linear_layer.down").replace(".lora_B", ".lora_linear_layer.up")


RENAMES: dict[str, tuple[str, Callable[[str], str]]] = {
    "sd-scripts": ("style.safetensors", str),
    "diffusers": (DIFFUSERS_FILE, str),
    "oldest diffusers": (DIFFUSERS_FILE, oldest_diffusers),
    "LyCORIS' wrapper": ("style.safetensors", lambda key: key.replace("lora_unet_", "lycoris_")),
    "OneTrainer": ("style.safetensors", lambda key: key.replace("lora_unet_", "lora_transformer_")),
}


@pytest.mark.parametrize("layout", RENAMES)
def test_a_run_starts_with_the_files_output_and_ranks(
    layout: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    exported = export("lora")
    path = rewritten(exported, tmp_path, *RENAMES[layout])
    if RENAMES[layout][0] == DIFFUSERS_FILE:
        assert "unet.mid_block" in "".join(read(path)[0])
    output, network = started(source, path)
    assert relative_difference(live(exported), output) < 1e-5
    assert {layer.lora_A["default"].weight.shape[0] for _, layer in adapter_layers(network)} == {RANK}
    assert warnings(source, path) == []


def test_rank_and_alpha_are_the_runs_where_it_says_so(export: Export, source: ModelSource, tmp_path: Path) -> None:
    exported = export("lora")
    path = exported.folder / "style.safetensors"
    output, network = started(source, path, rank=7, alpha=2.0, start_rank="run")
    assert relative_difference(live(exported), output) < 1e-5
    for _, layer in adapter_layers(network):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape[0] == 7 and layer.scaling["default"] == 2 / 7
        assert bool((b[:, RANK:] == 0).all()) and bool((a[RANK:].flatten(1).norm(dim=1) > 0).all())
    output, _ = started(source, path, rank=2, start_rank="run")
    base = prediction(FAMILY, fresh(source))
    assert 0 < relative_difference(live(exported), output) < relative_difference(live(exported), base)
    (warning,) = warnings(source, path, rank=2, start_rank="run")
    assert "cut to the run's rank" in warning and "% at least" in warning


def test_a_file_of_loha_is_cut_to_the_rank(export: Export, source: ModelSource) -> None:
    exported = export("loha")
    path = exported.folder / "style.safetensors"
    output, _ = started(source, path, rank=144, conv=True)
    assert relative_difference(live(exported), output) < 1e-5
    assert "layers of style.safetensors cut" in warnings(source, path, rank=2, conv=True)[0]


def test_layers_outside_the_run_are_refused_with_the_options_that_adapt_them(
    export: Export, source: ModelSource, tmp_path: Path
) -> None:
    path = export("lora").folder / "style.safetensors"
    with pytest.raises(ValueError, match=r"lora\.start: style\.safetensors adapts 12 .*--train\.text_encoder true"):
        warnings(source, path, text_encoder=False)
    with pytest.raises(ValueError, match=r"--lora\.targets ff\.net\.0\.proj ff\.net\.2 proj_in .*to_out\.0"):
        warnings(source, path, targets=("to_q",))
    (warning,) = warnings(source, path, conv=True)
    assert re.search(r"has no layers for \d+ of \d+ adapted layers", warning)
    other = rewritten(export("lora"), tmp_path, "style.safetensors", lambda key: key.replace("mid_block", "last_block"))
    with pytest.raises(ValueError, match=r"that the base model lacks \(lora_unet_last_block"):
        warnings(source, other)
    with pytest.raises(ValueError, match=r"dora_scale|lora_magnitude|low-rank matrices cannot"):
        warnings(source, export("dora").folder / DIFFUSERS_FILE, conv=True)
    wide, tensors = tmp_path / "wide.safetensors", read(path)[0]
    tensors = {key: torch.cat([value, value], dim=1) if "lora_down" in key else value for key, value in tensors.items()}
    safetensors.torch.save_file(tensors, wide)
    with pytest.raises(ValueError, match=r"does not fit the layer of the base model"):
        warnings(source, wide)


def test_options_that_contradict_a_start_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").touch()
    (tmp_path / "ink.ckpt").touch()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"start": tmp_path / "absent.safetensors"}, "no file or folder"),
        ({"start": tmp_path / "ink.ckpt"}, "not a safetensors file"),
        ({"start": tmp_path / "ink.safetensors", "init": "pissa"}, "lora.init: got pissa with lora.start"),
        ({"start": tmp_path / "ink.safetensors", "dora": True}, "lora.dora: got true with lora.start"),
        ({"start_rank": "run"}, "without lora.start"),
    )
    for options, words in cases:
        assert words in "".join(LoRAConfig(**options).problems()), words
