"""LoRA files of every family: converted, resized and merged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.config.lora import LoRAConfig
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.convert import convert
from finetune.lora_files.merge import merge
from finetune.lora_files.options import ConvertConfig, MergeConfig
from finetune.lora_files.resize import ResizeOptions, resize
from finetune.methods.lora.method import LoRA
from finetune.models import family_named
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.loading.components import find_family
from finetune.sampling.adapters import load_adapters, set_all_strengths
from tests.parity.test_converted_adapters import assert_equal, chained
from tests.support.adapter_models import fresh, trained_model
from tests.support.families import save_tiny_pipeline


def output_with(family: ModelFamily, source: ModelSource, *files: Path) -> torch.Tensor:
    """Return the denoiser's output with files at full strength."""
    components = fresh(source, family)
    set_all_strengths(load_adapters(family, components, files, []), [1.0] * len(files))
    return prediction(family, components)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_a_file_is_the_same_in_every_layout_at_its_rank_and_merged(name: str, tmp_path: Path) -> None:
    source = ModelSource(str(save_tiny_pipeline(name, tmp_path / "model")))
    family, model = family_named(find_family(source)), ModelConfig(source.location)
    config = LoRAConfig(rank=4, alpha=2)
    LoRA(config).export(trained_model(source, config, family=family), tmp_path)
    file = tmp_path / DIFFUSERS_FILE
    beside, base = output_with(family, source, file), output_with(family, source)
    assert relative_difference(base, beside) > 1e-3

    kohya = chained(source, file, tmp_path, [])
    assert_equal(file, convert(ConvertConfig(model, tmp_path / "e.safetensors", "diffusers", (str(kohya),)), print))
    assert relative_difference(beside, output_with(family, source, kohya)) < 1e-6

    resize(ResizeOptions(file, tmp_path / "same.safetensors", rank=4, dtype="fp32"), lambda text: None)
    assert relative_difference(beside, output_with(family, source, tmp_path / "same.safetensors")) < 1e-5

    merged = merge(MergeConfig(model, tmp_path / "merged", (str(file),), dtype="fp32"), lambda text: None)
    assert relative_difference(beside, output_with(family, ModelSource(str(merged)))) < 1e-6


def test_a_file_that_diverged_is_not_drawn_with(tmp_path: Path) -> None:
    source = ModelSource(str(save_tiny_pipeline("sd", tmp_path / "model")))
    family, config = family_named(find_family(source)), LoRAConfig(rank=1)
    model = trained_model(source, config, family=family)
    LoRA(config).export(model, tmp_path)
    for name in (DIFFUSERS_FILE, "style.safetensors"):
        tensors = load_file(tmp_path / name)
        key = next(key for key in tensors if "attn1" in key and not key.endswith("alpha"))
        tensors[key][0, 0] = float("nan")
        save_file(tensors, tmp_path / name)
        with pytest.raises(ValueError, match=r"with NaN or infinite numbers: .*attn1"):
            load_adapters(family, fresh(source, family), [tmp_path / name], [])
