import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.models.families.flux import Flux
from finetune.models.families.sd import StableDiffusion
from finetune.models.families.sd3 import StableDiffusion3
from finetune.models.family import ModelSource
from tests.tiny.flux import save_pipeline as save_flux
from tests.tiny.sd3 import build_pipeline as build_sd3

FAMILY, FLUX = StableDiffusion(), Flux()
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
        rf"{part} of .* does not load: {key} expected shape .*\. Exp|holds {key} of the shape \(3,\), expected": rest
        | {key: torch.ones(3)},
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


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_files_that_are_not_what_their_index_says_are_named(part: str, tmp_path: Path) -> None:
    """diffusers trusts the index and would fill gaps at random."""
    source = ModelSource(str(save_flux(tmp_path / "model")))
    (index,) = Path(source.location, part).glob("*.index.json")
    shard, *_ = sorted(Path(source.location, part).glob("*.safetensors"))
    whole, weights = shard.read_bytes(), safetensors.torch.load_file(shard)
    key = min(weights)
    safetensors.torch.save_file({f"{key}_old" if k == key else k: v for k, v in weights.items()}, shard)
    load = FLUX.denoiser if part == "transformer" else FLUX.text_encoders
    with pytest.raises(ValueError, match=rf"{part}/{shard.name} of .* lacks {key}, which {part}/{index.name} lists"):
        load(source)
    shard.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=rf"{shard.name} is not an intact safetensors file .*\. Download it again"):
        load(source)
    shard.unlink()
    with pytest.raises(ValueError, match=rf"has no file {part}/{shard.name}, which {part}/{index.name} names"):
        load(source)
    for text in ("{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(ValueError, match=rf"{index.name} is not a valid index of weights"):
            load(source)


def test_what_older_versions_stored_beside_a_text_encoder_is_harmless(source: ModelSource) -> None:
    file = file_of(source, "text_encoder")
    weights = safetensors.torch.load_file(file)
    extras = ("text_model.embeddings.position_ids", "logit_scale", "text_projection.weight", "vision_model.pre.weight")
    safetensors.torch.save_file(weights | {name: torch.ones(1) for name in extras}, file, {"format": "pt"})
    FAMILY.text_encoders(source)


def test_a_t5_whose_weight_is_renamed_is_refused(tmp_path: Path) -> None:
    build_sd3().save_pretrained(tmp_path / "model")  # T5 is one file then
    source = ModelSource(str(tmp_path / "model"))
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
