"""LoRA files at another rank."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.resize import ResizeOptions, pairs_of, resize
from finetune.lora_files.show import read
from finetune.models.family import ModelSource
from finetune.sampling.adapters import load_adapters, set_all_strengths
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, fresh

NAMES = ("style.safetensors", DIFFUSERS_FILE)


def output_with(source: ModelSource, path: Path) -> torch.Tensor:
    components = fresh(source)
    adapters = load_adapters(FAMILY, components, [path], [])
    set_all_strengths(adapters, [1.0])
    return prediction(FAMILY, components)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["lora", "convolutions and patterns", "rslora"])
def test_a_full_rank_reproduces_the_file(
    kind: str, name: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    file = export(kind).folder / name
    trained = output_with(source, file)
    for number, (rank, energy) in enumerate(((9, None), (None, 1.0))):
        target = tmp_path / f"{number}" / name
        target.parent.mkdir()
        resize(ResizeOptions(file, target, rank, energy, "fp32"), lambda text: None)
        assert relative_difference(trained, output_with(source, target)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_change_is_the_nearest_of_its_rank(name: str, export: Export, tmp_path: Path) -> None:
    """Compare with the singular values of whole changes (Eckart and Young)."""
    file, said = export("lora").folder / name, list[str]()
    resize(ResizeOptions(file, tmp_path / "small.safetensors", rank=2, dtype="fp32"), said.append)
    before = pairs_of(file, *read(file))
    after = pairs_of(file, *read(tmp_path / "small.safetensors"))
    assert before.keys() == after.keys()
    for layer, pair in after.items():
        assert pair.down.shape[0] == 2 and pair.scale == 1
        whole = before[layer].up.double().flatten(1) @ before[layer].down.double().flatten(1) * before[layer].scale
        left = whole - pair.up.double().flatten(1) @ pair.down.double().flatten(1)
        least = torch.linalg.svdvals(whole)[2:].norm()
        assert left.norm().item() == pytest.approx(least.item(), rel=1e-4, abs=1e-7), layer
    assert "rank 4 -> 2" in said[0] and "% at least" in said[0]


def test_mistakes_are_named(export: Export, tmp_path: Path) -> None:
    file, new = export("lora").folder / "style.safetensors", tmp_path / "new.safetensors"
    for options, words in (
        (ResizeOptions(file, new), "expected one of --rank N and --energy"),
        (ResizeOptions(file, new, rank=2, energy=0.5), "expected one of"),
        (ResizeOptions(file, new, energy=1.5), "energy: got 1.5"),
        (ResizeOptions(file, file, rank=2), "exists already"),
        (ResizeOptions(export("loha").folder / "style.safetensors", new, rank=2), "is not a file of plain LoRA"),
        (ResizeOptions(export("dora").folder / DIFFUSERS_FILE, new, rank=2), "is not a file of plain LoRA"),
    ):
        with pytest.raises(ValueError, match=words):
            resize(options, lambda text: None)
    assert not new.exists()


def test_the_users_file_stays_as_it_is(export: Export, tmp_path: Path) -> None:
    file = export("lora").folder / "style.safetensors"
    before = file.read_bytes()
    resize(ResizeOptions(file, tmp_path / "new.safetensors", rank=1), lambda text: None)
    assert file.read_bytes() == before
    found = safetensors.torch.load_file(tmp_path / "new.safetensors")
    assert {value.dtype for key, value in found.items() if "alpha" not in key} == {
        value.dtype for key, value in safetensors.torch.load_file(file).items() if "alpha" not in key
    }
