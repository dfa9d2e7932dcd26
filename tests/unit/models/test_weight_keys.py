"""A part of a folder whose weights are not those of its config is refused with the file and the weight."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.models.base import ModelSource
from finetune.models.sd import StableDiffusion
from finetune.models.sd3 import StableDiffusion3
from tests.tiny_sd3 import save_pipeline as save_sd3

FAMILY = StableDiffusion()
WEIGHTS = {
    "unet": "mid_block.resnets.0.conv1.bias",
    "vae": "decoder.conv_in.bias",
    "text_encoder": "encoder.layers.0.mlp.fc1.bias",
}


@pytest.fixture
def source(tiny_model: Path, tmp_path: Path) -> ModelSource:
    return ModelSource(str(shutil.copytree(tiny_model, tmp_path / "model")))


def file_of(source: ModelSource, part: str) -> Path:
    (file,) = Path(source.location, part).glob("*.safetensors")
    return file


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_missing_renamed_added_or_of_another_shape_are_named(part: str, source: ModelSource) -> None:
    file, key = file_of(source, part), WEIGHTS[part]
    weights = safetensors.torch.load_file(file)
    rest = {name: value for name, value in weights.items() if name != key}
    wrong = {
        rf"{part}/{file.name} of .* lacks .*{key}\.": rest,
        rf"lacks {key} and holds .*{key}_old, which": rest | {f"{key}_old": weights[key]},
        r"holds .*unheard_of, which": weights | {"unheard_of": torch.ones(2)},
        rf"{part} of .* does not load: .*{key}|holds {key} of the shape \(3,\), expected": rest | {key: torch.ones(3)},
    }
    for words, changed in wrong.items():
        safetensors.torch.save_file(changed, file, {"format": "pt"})
        with pytest.raises(ValueError, match=words):
            FAMILY.load(source)


def test_a_shard_that_lacks_a_weight_is_named_by_its_index(source: ModelSource) -> None:
    file = file_of(source, "text_encoder")
    weights = safetensors.torch.load_file(file)
    file.unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:-1]}
    for shard, held in shards.items():
        safetensors.torch.save_file({name: weights[name] for name in held}, file.parent / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (file.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"text_encoder/model\.safetensors\.index\.json of .* lacks {names[-1]}"):
        FAMILY.text_encoders(source)


def test_what_older_versions_stored_beside_a_text_encoder_is_harmless(source: ModelSource) -> None:
    file = file_of(source, "text_encoder")
    weights = safetensors.torch.load_file(file)
    extras = ("text_model.embeddings.position_ids", "logit_scale", "text_projection.weight", "vision_model.pre.weight")
    safetensors.torch.save_file(weights | {name: torch.ones(1) for name in extras}, file, {"format": "pt"})
    FAMILY.text_encoders(source)


def test_a_t5_whose_weight_is_renamed_is_refused(tmp_path: Path) -> None:
    source = ModelSource(str(save_sd3(tmp_path / "model")))
    file = file_of(source, "text_encoder_3")
    weights = safetensors.torch.load_file(file)
    key = "encoder.final_layer_norm.weight"
    weights |= {"lm_head.weight": torch.ones(1), "decoder.x": torch.ones(1)}
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    StableDiffusion3().text_encoders(source)
    weights["encoder.last_norm.weight"] = weights.pop(key)
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"text_encoder_3/model\.safetensors .* lacks {key} and holds"):
        StableDiffusion3().text_encoders(source)
