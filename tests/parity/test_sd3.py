"""Traits of Stable Diffusion 3 and 3.5; tests/contract has the rest."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from finetune.config.loss import LossConfig
from finetune.config.recipes import TokensConfig
from finetune.config.sections import ModelConfig
from finetune.export.lora import lora_layers, save_diffusers_lora
from finetune.export.pipeline import save_full_pipeline
from finetune.export.verify import prediction, reloaded_differences
from finetune.methods.tokens import TextualInversion
from finetune.models.families.sd3 import StableDiffusion3
from finetune.models.family import ModelSource, Network
from tests.support.runs import Options, completed, metrics, without_lora
from tests.tiny.components import components_of
from tests.tiny.sd3 import build_pipeline, save_pipeline

FAMILY = StableDiffusion3()


@pytest.mark.parametrize("version35", [False, True])
def test_single_file_names_are_those_of_the_original_checkpoint(version35: bool) -> None:
    """diffusers converts a checkpoint of these names back completely."""
    transformer = build_pipeline(version35=version35).transformer
    state = transformer.state_dict()
    original: dict[str, Tensor] = {"pos_embed": state["pos_embed.pos_embed"]}
    pieces: dict[str, dict[int, Tensor]] = {}
    for module, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            place = FAMILY.single_file_layer(transformer, module)
            assert sum(place.sizes[:1]) in (0, len(layer.weight))
            for kind, value in layer.named_parameters():
                value = torch.cat(value.chunk(2)[::-1]) if place.swapped else value
                pieces.setdefault(f"{place.name}.{kind}", {})[place.place] = value.detach()
    for name, parts in pieces.items():
        assert sorted(parts) == list(range(3 if "qkv" in name else 1))
        original[name] = torch.cat([parts[number] for number in sorted(parts)])
    for name, value in state.items():
        if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(attn2?)\.norm_(added_)?([qk])\.weight", name):
            number, attention, added, letter = match.groups()
            side = "context_block" if added else "x_block"
            original[f"joint_blocks.{number}.{side}.{attention}.ln_{letter}.weight"] = value
    converted = convert_sd3_transformer_checkpoint_to_diffusers(original)
    assert original == {}
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("version35", "architecture"),
    [(False, "stable-diffusion-v3-medium/lora"), (True, "stable-diffusion-v3.5-medium/lora")],
)
def test_a_file_says_which_model_it_fits(version35: bool, architecture: str) -> None:
    components = components_of(build_pipeline(version35=version35))
    found = FAMILY.model_spec(components, FAMILY.objective(components.scheduler, LossConfig()))
    assert found["modelspec.architecture"] == architecture
    assert FAMILY.pixel_multiple(components.vae) == 4  # two pixels a latent, two latents a patch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="module")
def model35(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("models") / "sd35", version35=True)


def test_without_t5_zeros_stand_in_its_place_and_one_warning_says_so(model: Path, tmp_path: Path) -> None:
    absent = ModelSource(str(save_pipeline(tmp_path / "without", t5=False)))
    left_out, whole = ModelSource(str(model), without=("text_encoder_3",)), ModelSource(str(model))
    assert FAMILY.warnings(left_out) == [] == FAMILY.warnings(whole)
    (warning,) = FAMILY.warnings(absent)
    assert "text_encoder_3" in warning
    for source in (absent, left_out):
        components = FAMILY.load(source)
        assert len(components.text_encoders) == len(components.tokenizers) == 2
    ours, with_t5 = FAMILY.load(left_out), FAMILY.load(whole)
    assert torch.equal(prediction(FAMILY, ours), prediction(FAMILY, FAMILY.load(absent)))
    assert not torch.equal(prediction(FAMILY, ours), prediction(FAMILY, with_t5))


def test_parts_that_do_not_belong_together_are_refused(model: Path, tmp_path: Path) -> None:
    source = ModelSource(str(model))
    components = FAMILY.load(source)
    swapped = replace(components, text_encoders=(components.text_encoders[0],) * 2 + components.text_encoders[2:])
    with pytest.raises(ValueError, match="pooled prompts"):
        FAMILY.check(swapped, source)
    with pytest.raises(ValueError, match=r"text_encoder_2, but .* can do without text_encoder_3 alone"):
        FAMILY.tokenizers(ModelSource(str(model), without=("text_encoder_2",)))
    empty = save_pipeline(tmp_path / "model")
    for file in (empty / "tokenizer_3").glob("*"):
        file.unlink()
    with pytest.raises(ValueError, match="tokenizer_3"):
        FAMILY.load(ModelSource(str(empty)))


def test_objectives_of_diffusion_and_new_tokens_are_refused(model: Path) -> None:
    scheduler = FAMILY.scheduler(ModelSource(str(model)))
    for options in (LossConfig(prediction_type="epsilon"), LossConfig(weighting="min_snr")):
        with pytest.raises(ValueError, match="flow"):
            FAMILY.objective(scheduler, options)
    with pytest.raises(ValueError, match="no new tokens"):
        TextualInversion.from_config(TokensConfig(names=("<new>",)), ModelConfig(str(model), "sd3"))


def test_a_lora_in_diffusers_layout_loads_again(model35: Path, tmp_path: Path) -> None:
    source = ModelSource(str(model35))
    components = FAMILY.load(source)
    trained = FAMILY.trained_text_encoders(components.text_encoders)
    adapted_parts = [(components.denoiser, FAMILY.lora_targets)]
    for module, targets in adapted_parts + [(encoder, FAMILY.text_encoder_lora_targets) for encoder in trained]:
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, target_modules=list(targets)), module)
    untouched = prediction(FAMILY, components)
    state = {}
    for number, (name, parameter) in enumerate(Network(FAMILY, components.denoiser, trained).named_parameters()):
        if ".lora_" in name:
            generator = torch.Generator().manual_seed(number)
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            state[name] = parameter.detach().clone()
    names = {key.split(".lora_")[0] for key in state}
    assert {name.partition(".transformer_blocks.0.")[2] for name in names} >= {"attn2.to_q", "attn.to_add_out"}
    adapted = prediction(FAMILY, components)
    assert not torch.allclose(adapted, untouched, rtol=1e-2)
    layers = lora_layers(state, dict.fromkeys(names, 1.5))
    path = save_diffusers_lora(FAMILY, FAMILY.load(source), layers, tmp_path)
    (difference,) = reloaded_differences(FAMILY, source, adapted, names, [path]).values()
    assert difference < 1e-5


@pytest.mark.parametrize("without", [(), ("text_encoder_3",)])
def test_a_full_export_loads_again(model: Path, tmp_path: Path, without: tuple[str, ...]) -> None:
    components = FAMILY.load(ModelSource(str(model), without=without))
    with torch.no_grad():
        for number, weight in enumerate(components.denoiser.parameters()):
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    assert save_full_pipeline(FAMILY, components, dtype="fp32", folder=tmp_path / "export") == 0
    absent: Any = {"text_encoder_3": None, "tokenizer_3": None} if without else {}
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "export", use_safetensors=True, **absent)
    trained = components.denoiser.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in pipeline.transformer.state_dict().items())
    assert (pipeline.text_encoder_3 is None) == bool(without)


@pytest.fixture
def options(tiny_run: Options, model35: Path) -> Options:
    return tiny_run | {"model.source": model35, "model.family": "sd3", "train.steps": 2}


def test_all_weights_and_the_text_encoders_of_clip_train(options: Options, pictures: Path, tmp_path: Path) -> None:
    own = without_lora(options)
    own |= {"train.text_encoder": True, "cache.text": False, "optim.lr": 1e-4, "output.dtype": "fp32"}
    own |= {"data.template": "{caption} " * 60}
    own |= {"preview.prompts": ("a red circle " * 100, "a red circle"), "preview.num_inference_steps": 1}
    ended = completed("full", own, tmp_path / "log")
    assert "The ends of" in ended.output and "and 1 preview prompt are not read" in ended.output
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert sum("reads 255 tokens of a caption" in warning for warning in card["warnings"]) == 1
    assert {"lr", "lr_text_encoder"} <= metrics(tmp_path / "out")[-1].keys()
    before = StableDiffusion3Pipeline.from_pretrained(str(options["model.source"]))
    after = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out" / "export")
    for part, trains in (("text_encoder", True), ("text_encoder_2", True), ("text_encoder_3", False)):
        first, second = before.components[part].state_dict(), after.components[part].state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items()) != trains
