import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from torch import nn

from finetune.batches.store import fingerprint
from finetune.config.lora import LoRAConfig
from finetune.methods.lora.method import LoRA
from finetune.models import FAMILIES, family_named
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource, Network
from finetune.models.loading.part_files import part_files
from finetune.models.parts import PARTS, Part, loaded
from finetune.models.stored import readable_as_float32, stored_dtype
from tests.support.adapter_models import KINDS
from tests.support.damage import cut
from tests.support.families import save_tiny_pipeline
from tests.support.original_layout import save_single_file
from tests.tiny.sd import build_pipeline

FAMILY = StableDiffusion()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return saved(build_pipeline(size="micro"), tmp_path_factory.mktemp("half") / "model", torch.bfloat16)


def saved(pipeline: Any, folder: Path, dtype: torch.dtype, **options: Any) -> ModelSource:
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(dtype)
    pipeline.save_pretrained(folder, **options)
    return ModelSource(str(folder), as_stored=True)


def num_bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.itemsize for value in module.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_denoiser_takes_half_of_the_memory_and_has_the_same_values(name: str, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(save_tiny_pipeline(name, tmp_path / "wide"))
    source, family = saved(pipeline, tmp_path / "narrow", torch.bfloat16), family_named(name)
    narrow, wide = (family.denoiser(replace(source, as_stored=stored)) for stored in (True, False))
    assert num_bytes(wide) == 2 * num_bytes(narrow)
    assert fingerprint(narrow) == fingerprint(wide)
    assert dict(narrow.config) == dict(wide.config) and not narrow.training
    for (first, buffer), (second, other) in zip(narrow.named_buffers(), wide.named_buffers(), strict=True):
        assert first == second and buffer.dtype == other.dtype and torch.equal(buffer, other)


@pytest.mark.parametrize("part", PARTS)
def test_other_parts_are_read_in_float32(part: Part, half: ModelSource) -> None:
    dtypes = {parameter.dtype for module in loaded(FAMILY, half, part) for parameter in module.parameters()}
    assert dtypes == {torch.bfloat16 if part == "denoiser" else torch.float32}


def test_a_single_file_stays_as_it_is_stored_too(tmp_path: Path) -> None:
    pipeline: Any = build_pipeline(size="micro")
    saved(pipeline, tmp_path / "configs", torch.float16)
    file = save_single_file(pipeline, tmp_path / "model.safetensors", torch.float16)
    source = ModelSource(str(file), config=tmp_path / "configs", as_stored=True)
    narrow, wide = FAMILY.denoiser(source), FAMILY.denoiser(replace(source, as_stored=False))
    assert num_bytes(wide) == 2 * num_bytes(narrow) and fingerprint(narrow) == fingerprint(wide)


def test_the_number_format_is_that_of_the_variant_and_of_all_shards(tmp_path: Path) -> None:
    pipeline: Any = build_pipeline(size="micro")
    source = saved(pipeline, tmp_path, torch.float32)
    saved(pipeline, tmp_path, torch.float16, variant="fp16", max_shard_size="20KB")
    assert stored_dtype(part_files(source, "unet", has_weights=True), "unet") == torch.float32
    fp16 = replace(source, variant="fp16")
    assert stored_dtype(part_files(fp16, "unet", has_weights=True), "unet") == torch.float16
    assert FAMILY.denoiser(fp16).dtype == torch.float16
    shards = sorted((tmp_path / "unet").glob("*.fp16-*.safetensors"))
    assert len(shards) > 1
    weights = safetensors.torch.load_file(shards[0])
    name = next(iter(weights))
    safetensors.torch.save_file(weights | {name: weights[name].float()}, shards[0])
    assert stored_dtype(part_files(fp16, "unet", has_weights=True), "unet") == torch.float32


def test_a_part_without_weights_is_refused_as_ever(half: ModelSource, tmp_path: Path) -> None:
    folder = shutil.copytree(half.location, tmp_path / "model")
    (weights,) = (folder / "unet").glob("*.safetensors")
    for damage in (cut, Path.unlink):
        damage(weights)
        with pytest.raises(ValueError, match=r"unet of .* does not load"):
            FAMILY.denoiser(replace(half, location=str(folder)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not LoRA(LoRAConfig(**KINDS[kind])).alters_weights])
def test_adapters_start_from_the_same_numbers(kind: str, half: ModelSource) -> None:
    method = LoRA(LoRAConfig(**KINDS[kind]))
    states = []
    for source in (half, replace(half, as_stored=False)):
        (denoiser,) = loaded(FAMILY, source, "denoiser")
        network = Network(FAMILY, denoiser, loaded(FAMILY, source, "text_encoders"))
        method.attach(network, 0)
        states.append({name: value for name, value in network.named_parameters() if value.requires_grad})
    assert states[0] and states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert value.dtype == torch.float32 and torch.equal(value, states[1][name]), name


def test_weights_that_were_seen_in_float32_are_the_same_objects_afterwards() -> None:
    layer = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(1, 2, 3), nn.LayerNorm(3)).bfloat16()
    before = dict(layer.named_parameters())
    with readable_as_float32(layer):
        assert layer[0].weight.dtype == layer[1].weight.dtype == torch.float32
    after = dict(layer.named_parameters())
    assert before.keys() == after.keys() and all(after[name] is value for name, value in before.items())
    assert type(layer[0]) is nn.Linear
