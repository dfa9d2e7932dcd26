import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from finetune.config.sections import ModelConfig
from finetune.export.pipeline import save_full_pipeline
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family, parts_warnings
from finetune.models.loading.file_stamps import file_stamps
from finetune.run.weight_hashes import record_file
from tests.support.original_layout import save_single_file, vae_weights
from tests.support.runs import differing
from tests.tiny.sd import build_pipeline, build_shifted_vae

FAMILY = StableDiffusion()


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A base model; `other` beside it is a pipeline with another VAE."""
    build_pipeline(size="micro").save_pretrained(tmp_path / "base")
    build_pipeline(size="micro", seed=1).save_pretrained(tmp_path / "other")
    return ModelSource(str(tmp_path / "base"))


def vae_of(folder: Path) -> dict[str, torch.Tensor]:
    return AutoencoderKL.from_pretrained(folder, subfolder="vae").state_dict()


def written(layout: str, folder: Path) -> Path:
    pipeline: Any = build_pipeline(size="micro", seed=1)
    file = folder / "other.safetensors"
    match layout:
        case "pipeline":
            return folder / "other"
        case "folder":
            return Path(shutil.copytree(folder / "other" / "vae", folder / "alone"))
        case "variant":
            pipeline.vae.save_pretrained(folder / "alone", variant="fp16")
            return folder / "alone"
        case "diffusers file":
            safetensors.torch.save_file(pipeline.vae.state_dict(), file)
        case "original file":
            weights = vae_weights(pipeline.vae) | {"loss.logvar": torch.zeros(1)}
            safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, file)
        case "whole model":
            save_single_file(pipeline, file)
    return file


@pytest.mark.parametrize("layout", ["pipeline", "folder", "variant", "diffusers file", "original file", "whole model"])
def test_another_vae_is_read_in_every_layout(layout: str, source: ModelSource, tmp_path: Path) -> None:
    before = file_stamps(source)
    other = replace(source, vae=str(written(layout, tmp_path)))
    components = FAMILY.load(other)
    assert differing(components.vae.state_dict(), vae_of(tmp_path / "other")) == []
    assert differing(components.denoiser.state_dict(), FAMILY.denoiser(source).state_dict()) == []
    assert dict(components.vae.config)["scaling_factor"] == 0.18215 and not components.vae.training
    assert parts_warnings(other) == []
    assert len(file_stamps(other)) > len(before) and record_file(other, tmp_path) != record_file(source, tmp_path)


def test_a_single_file_without_a_vae_takes_that_of_the_option(source: ModelSource, tmp_path: Path) -> None:
    file = save_single_file(build_pipeline(size="micro"), tmp_path / "model.safetensors")
    weights = safetensors.torch.load_file(file)
    safetensors.torch.save_file({k: v for k, v in weights.items() if not k.startswith("first_stage")}, file)
    single = ModelSource(str(file), config=Path(source.location))
    with pytest.raises(ValueError, match=r"holds no autoencoder \(VAE\)\. Use .* --model\.vae"):
        find_family(single)
    single = replace(single, vae=str(tmp_path / "other"))
    assert find_family(single) == "sd"
    assert differing(FAMILY.load(single).vae.state_dict(), vae_of(tmp_path / "other")) == []


def test_a_vae_that_is_not_of_the_base_model_is_refused(source: ModelSource, tmp_path: Path) -> None:
    def refused(vae: object, words: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=rf"^model\.vae: .*{words}"):
            FAMILY.load(replace(source, vae=str(vae)))

    build_shifted_vae(scaling_factor=1.5, shift_factor=0.1).save_pretrained(tmp_path / "wide")
    refused(tmp_path / "wide", "has 16 latent channels, expected 4")
    refused(tmp_path / "wide" / "diffusion_pytorch_model.safetensors", "vae of .* does not load: decoder.* shape")
    refused("someone/vae", "HF_HUB_OFFLINE")
    with pytest.raises(ValueError, match=r"^model\.vae: .*HF_HUB_OFFLINE"):
        parts_warnings(replace(source, vae="someone/vae"))
    tiny = AutoencoderTiny(encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4)
    tiny.save_pretrained(tmp_path / "taesd")
    refused(tmp_path / "taesd", "is a AutoencoderTiny, expected an AutoencoderKL")
    refused(tmp_path / "nowhere.safetensors", "no file or folder")
    refused(tmp_path, r"has no config\.json")
    for layout in ("diffusers file", "original file"):
        file = written(layout, tmp_path)
        weights = safetensors.torch.load_file(file)
        weights.pop("encoder.conv_in.weight")
        safetensors.torch.save_file(weights, file)
        refused(file, r"lacks .*encoder\.conv_in\.weight")
    (problem,) = ModelConfig(source="m", vae="old.vae.pt").problems()
    assert problem.startswith("model.vae") and "safetensors" in problem


def test_a_scale_that_the_vae_does_not_state_is_the_bases_and_another_one_is_warned_of(
    source: ModelSource, tmp_path: Path
) -> None:
    for folder in ("base", "other"):
        file = tmp_path / folder / "vae" / "config.json"
        config = json.loads(file.read_text()) | {"scaling_factor": 0.13025}
        if folder == "other":
            del config["scaling_factor"]
        file.write_text(json.dumps(config))
    other = replace(source, vae=str(tmp_path / "other"))
    assert FAMILY.vae(other).config.scaling_factor == 0.13025 and parts_warnings(other) == []
    file.write_text(json.dumps(config | {"scaling_factor": 0.18215}))
    assert FAMILY.vae(other).config.scaling_factor == 0.18215
    (warning,) = parts_warnings(other)
    assert "scaling_factor 0.18215 instead of 0.13025" in warning


def test_a_full_export_has_the_other_vae(source: ModelSource, tmp_path: Path) -> None:
    components = FAMILY.load(replace(source, vae=str(written("diffusers file", tmp_path))))
    save_full_pipeline(FAMILY, components, dtype="fp32", folder=tmp_path / "export")
    assert differing(vae_of(tmp_path / "export"), vae_of(tmp_path / "other")) == []
