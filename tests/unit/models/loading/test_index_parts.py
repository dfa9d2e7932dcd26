import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.eight_bits import eight_bit_warnings

FAMILY = StableDiffusion()


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def change(file: Path, **values: object) -> None:
    """Change a JSON file; None removes a key."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("part", "entry", "words"),
    [
        ("unet", ["diffusers", "UNet2DModel"], "names diffusers.UNet2DModel as unet, expected diffusers.UNet2DCond"),
        ("unet", ["my_code", "UNet2DConditionModel"], "names my_code.UNet2DConditionModel as unet"),
        ("unet", None, "names no unet"),
        ("vae", ["diffusers", "AutoencoderTiny"], "names diffusers.AutoencoderTiny as vae"),
        ("vae", None, "names no vae, .*--model.vae, such as .*vae"),
        ("vae", [None, None], "names no vae"),
        ("text_encoder", None, "names no text_encoder"),
    ],
)
def test_an_index_with_another_class_or_without_a_part_is_refused(
    part: str, entry: list[str | None] | None, words: str, model: Path
) -> None:
    change(model / "model_index.json", **{part: entry})
    with pytest.raises(ValueError, match=rf"model\.source: model_index.json of .*{words}"):
        FAMILY.load(ModelSource(str(model)))


def test_a_part_whose_config_is_of_another_class_is_refused(model: Path) -> None:
    change(model / "unet" / "config.json", _class_name="UNet2DModel")
    with pytest.raises(ValueError, match=r"unet/config.json of .* is that of a UNet2DModel, expected UNet2DCondition"):
        FAMILY.load(ModelSource(str(model)))


def test_another_vae_takes_the_place_of_one_that_the_index_lacks(model: Path) -> None:
    change(model / "model_index.json", vae=None)
    other = replace(ModelSource(str(model)), vae=str(model / "vae"))
    assert FAMILY.load(other).vae.config.latent_channels == 4


def test_the_class_of_a_text_encoder_and_older_configs_are_taken(model: Path) -> None:
    change(model / "model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"])
    change(model / "vae" / "config.json", _class_name=None)
    FAMILY.load(ModelSource(str(model)))


def test_weights_in_8_bits_without_scales_are_counted_and_warned_of(model: Path) -> None:
    source = ModelSource(str(model))
    assert eight_bit_warnings(source) == []
    (file,) = (model / "unet").glob("*.safetensors")
    weights = safetensors.torch.load_file(file)
    narrow = {name: value.to(torch.float8_e4m3fn) if value.ndim > 1 else value for name, value in weights.items()}
    safetensors.torch.save_file(narrow, file, {"format": "pt"})
    num = sum(value.ndim > 1 for value in weights.values())
    total = sum(len(safetensors.torch.load_file(path)) for path in model.glob("*/*.safetensors"))
    (warning,) = eight_bit_warnings(source)
    assert warning.startswith(f"model.source: {num} of {total} weights of {model} are stored in 8 bits")
    loaded = FAMILY.load(source).denoiser.state_dict()
    name = next(name for name, value in weights.items() if value.ndim > 1)
    assert torch.equal(loaded[name], narrow[name].float())
