import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.components import parts_warnings
from finetune.models.loading.part_files import small_files, variant_of, weight_files
from tests.tiny.sd import save_pipeline

FAMILY = StableDiffusion()


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return ModelSource(str(save_pipeline(tmp_path / "model", size="micro")))


def rename(source: ModelSource, part: str, variant: str, *, keep: bool = False) -> None:
    (file,) = Path(source.location, part).glob("*model.safetensors")
    (shutil.copyfile if keep else shutil.move)(file, file.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.fp16.safetensors", "fp16"),
        ("a.b/model-00001-of-00002.safetensors", None),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model-00001-of-00002.fp16.safetensors", "fp16"),
        ("model.safetensors.index.json", None),
        ("model.safetensors.index.fp16.json", "fp16"),
    ],
)
def test_the_variant_is_read_off_the_name(name: str, variant: str | None) -> None:
    assert variant_of(name) == variant


def test_a_part_needs_its_weights_once() -> None:
    """SD 3's repository has T5 whole and in shards, twice."""
    shards = [f"t5/model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = ["t5/config.json", "t5/model.safetensors", "t5/model.safetensors.index.json", *shards]
    half = ["t5/model.fp16-00001-of-00002.safetensors", "t5/model.safetensors.index.fp16.json"]
    other = ["t5/pytorch_model.bin", "t5/flax_model.msgpack", "t5/lora.safetensors", "t5/x/config.json", "config.json"]
    files = [*names, *half, *other]
    assert small_files(files, "t5") == {"t5/config.json"}
    assert weight_files(files, "t5", None) == {"t5/model.safetensors"}
    assert weight_files(files, "t5", "fp16") == {*half}
    unet = [name.replace("model", "diffusion_pytorch_model") for name in names]
    assert weight_files(unet, "t5", None) == {*unet[2:]}


def test_a_part_without_the_variant_is_read_as_it_is_and_that_is_said_once(source: ModelSource) -> None:
    assert parts_warnings(source) == []
    rename(source, "unet", "fp16", keep=True)
    half = replace(source, variant="fp16")
    FAMILY.load(half)
    (warning,) = parts_warnings(half)
    assert "model.variant" in warning and "vae (no variant)" in warning and "text_encoder (no variant)" in warning
    assert "unet" not in warning and parts_warnings(source) == []


def test_a_part_that_has_only_a_variant_is_read_in_it_and_that_is_said(source: ModelSource) -> None:
    rename(source, "vae", "fp16")
    FAMILY.load(source)
    (warning,) = parts_warnings(source)
    assert "vae (fp16)" in warning and "text_encoder" not in warning


def test_a_variant_that_no_part_has_and_several_to_choose_from_are_refused(source: ModelSource) -> None:
    with pytest.raises(ValueError, match=r"no weights of the variant bf16\. Omit the option"):
        FAMILY.load(replace(source, variant="bf16"))
    rename(source, "vae", "bf16", keep=True)
    rename(source, "vae", "fp16")
    with pytest.raises(ValueError, match=r"vae of .* has weights of the variants bf16, fp16\. Use one"):
        FAMILY.load(source)
    with pytest.raises(ValueError, match=r"variant fp32\. Use one that it has \(bf16, fp16\)"):
        FAMILY.load(replace(source, variant="fp32"))
    FAMILY.load(replace(source, variant="fp16"))
