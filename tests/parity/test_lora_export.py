"""Exported LoRA files against the live network.

They are read by diffusers' loader and by the update written out by hand.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from torch import Tensor

from finetune.export.lora import LoRALayer, lora_layers, save_diffusers_lora, save_kohya_lora
from finetune.export.verify import TOLERANCE, prediction, reloaded_differences, require_equal
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelSource, Network
from tests.tiny import sd as tiny

RANK, ALPHA = 4, 6.5
FAMILY = StableDiffusion()
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WITH_CONVOLUTIONS = (*FAMILY.lora_targets, "conv1", "conv2", "downsamplers.0.conv")


@dataclass(frozen=True)
class Trained:
    """A base model on disk, and adapters on it as if trained."""

    source: ModelSource
    components: Components
    state: dict[str, Tensor]
    output: Tensor
    untouched: Tensor


def trained(folder: Path, targets: Sequence[str], *, text_encoder: bool, sd2: bool = False) -> Trained:
    """Make a tiny model with adapters that change its output visibly."""
    prediction_type = "v_prediction" if sd2 else "epsilon"
    source = ModelSource(str(tiny.save_pipeline(folder / "base", sd2=sd2, prediction_type=prediction_type)))
    components = FAMILY.load(source)
    untouched = output_of(components)
    inject_adapter_in_model(lora_config(targets), components.denoiser)
    if text_encoder:
        inject_adapter_in_model(lora_config(FAMILY.text_encoder_lora_targets), components.text_encoders[0])
    network = Network(FAMILY, components.denoiser, components.text_encoders)
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            state[name] = parameter.detach().clone()
    return Trained(source, components, state, output_of(components), untouched)


def lora_config(targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(targets))


@torch.no_grad()
def output_of(model: Components | StableDiffusionPipeline) -> Tensor:
    """The U-Net's output for a prompt, through the model's own text encoder."""
    if isinstance(model, StableDiffusionPipeline):
        unet, text_encoder, tokenizer = model.unet, model.text_encoder, model.tokenizer
    else:
        unet, text_encoder, tokenizer = model.denoiser, model.text_encoders[0], model.tokenizers[0]
    tokens = tokenizer("a red circle on white paper", padding="max_length", return_tensors="pt").input_ids
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    return unet(noisy, 300, encoder_hidden_states=text_encoder.eval()(tokens).last_hidden_state).sample


def loaded(source: ModelSource, file: Path) -> StableDiffusionPipeline:
    """A fresh pipeline with the file loaded as a user would."""
    pipeline = StableDiffusionPipeline.from_pretrained(source.location, use_safetensors=True)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipeline


def relative(reference: Tensor, other: Tensor) -> float:
    return float((reference - other).norm() / reference.norm())


CASES: dict[str, dict[str, Any]] = {
    "default targets": {"targets": FAMILY.lora_targets, "text_encoder": False},
    "default targets and text encoder": {"targets": FAMILY.lora_targets, "text_encoder": True},
    "attention only": {"targets": ATTENTION, "text_encoder": False},
    "with 3x3 convolutions": {"targets": WITH_CONVOLUTIONS, "text_encoder": False},
    "version 2, v-prediction, text encoder": {"targets": FAMILY.lora_targets, "text_encoder": True, "sd2": True},
}


@pytest.fixture(scope="module", params=CASES, ids=CASES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("model"), **CASES[request.param])


@pytest.fixture(scope="module")
def full_model(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("model"), FAMILY.lora_targets, text_encoder=True)


def layers_of(model: Trained, alpha: float = ALPHA) -> list[LoRALayer]:
    return lora_layers(model.state, {key.split(".lora_")[0]: alpha / RANK for key in model.state})


def differences_of(model: Trained, files: Sequence[Path]) -> dict[Path, float]:
    names = {key.split(".lora_")[0] for key in model.state}
    return reloaded_differences(FAMILY, model.source, prediction(FAMILY, model.components), names, files)


def exported(
    model: Trained, folder: Path, dtype: Literal["fp16", "bf16", "fp32"] = "fp32", alpha: float = ALPHA
) -> Path:
    metadata = {"ss_network_dim": str(RANK)}
    path = folder / f"style-{dtype}.safetensors"
    return save_kohya_lora(
        FAMILY, model.components.denoiser, layers_of(model, alpha), metadata=metadata, dtype=dtype, path=path
    )


def exported_to_diffusers(model: Trained, folder: Path, alpha: float = ALPHA) -> Path:
    return save_diffusers_lora(FAMILY, model.components, layers_of(model, alpha), folder)


def test_a_fresh_diffusers_pipeline_gives_the_live_networks_output(model: Trained, tmp_path: Path) -> None:
    assert relative(model.untouched, model.output) > 0.1
    assert relative(model.output, output_of(loaded(model.source, exported_to_diffusers(model, tmp_path)))) < 1e-6
    assert relative(model.output, output_of(loaded(model.source, exported(model, tmp_path, "fp32")))) < 1e-6
    assert relative(model.output, output_of(loaded(model.source, exported(model, tmp_path, "fp16")))) < 1e-3


def test_rounding_to_bf16_costs_less_than_a_hundredth_of_the_adapters_effect(
    full_model: Trained, tmp_path: Path
) -> None:
    rounded = output_of(loaded(full_model.source, exported(full_model, tmp_path, "bf16")))
    assert 1e-4 < relative(full_model.output, rounded) < 0.01 * relative(full_model.untouched, full_model.output)


def test_verification_accepts_the_files_and_leaves_the_random_state(full_model: Trained, tmp_path: Path) -> None:
    files = [exported_to_diffusers(full_model, tmp_path), exported(full_model, tmp_path, "fp16")]
    state_before = torch.random.get_rng_state()
    differences = differences_of(full_model, files)
    assert torch.equal(torch.random.get_rng_state(), state_before)
    assert list(differences) == files
    assert differences[files[0]] < 1e-6
    assert 1e-6 < differences[files[1]] < TOLERANCE
    require_equal(differences)


def test_the_weight_update_written_out_by_hand_gives_the_live_networks_output(model: Trained, tmp_path: Path) -> None:
    """The layer changes by alpha / rank * up @ down."""
    pipeline = StableDiffusionPipeline.from_pretrained(model.source.location, use_safetensors=True)
    layers = {f"lora_unet_{name.replace('.', '_')}": layer for name, layer in pipeline.unet.named_modules()}
    for name, layer in pipeline.text_encoder.named_modules():
        layers[f"lora_te_text_model_{name.replace('.', '_')}"] = layer
    tensors = safetensors.torch.load_file(exported(model, tmp_path))
    names = {key.partition(".")[0] for key in tensors}
    for name in names:
        down, up = tensors.pop(f"{name}.lora_down.weight"), tensors.pop(f"{name}.lora_up.weight")
        change = (up.flatten(1) @ down.flatten(1)) * tensors.pop(f"{name}.alpha").item() / down.shape[0]
        layers[name].weight.data += change.reshape(layers[name].weight.shape)
    assert not tensors
    assert relative(model.output, output_of(pipeline)) < 1e-5


def stable_diffusion_15_names(num_text_layers: int) -> Iterator[str]:
    """The layers that sd-scripts adapts in Stable Diffusion 1.5. 192 in the U-Net and 6 per text encoder layer."""
    transformers = [f"down_blocks_{block}_attentions_{layer}" for block in (0, 1, 2) for layer in (0, 1)]
    transformers += ["mid_block_attentions_0"]
    transformers += [f"up_blocks_{block}_attentions_{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)]
    for transformer in transformers:
        yield f"lora_unet_{transformer}_proj_in"
        yield f"lora_unet_{transformer}_proj_out"
        for attention in ("attn1", "attn2"):
            for projection in ("to_q", "to_k", "to_v", "to_out_0"):
                yield f"lora_unet_{transformer}_transformer_blocks_0_{attention}_{projection}"
        yield f"lora_unet_{transformer}_transformer_blocks_0_ff_net_0_proj"
        yield f"lora_unet_{transformer}_transformer_blocks_0_ff_net_2"
    for layer in range(num_text_layers):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"lora_te_text_model_encoder_layers_{layer}_self_attn_{projection}"
        yield f"lora_te_text_model_encoder_layers_{layer}_mlp_fc1"
        yield f"lora_te_text_model_encoder_layers_{layer}_mlp_fc2"


def test_the_single_file_has_the_key_names_of_stable_diffusion_15(full_model: Trained, tmp_path: Path) -> None:
    names = set(stable_diffusion_15_names(num_text_layers=2))
    assert len(names) == 192 + 12
    expected = {f"{name}.{end}" for name in names for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert set(safetensors.torch.load_file(exported(full_model, tmp_path))) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_weights_have_the_files_dtype_and_alpha_stays_float32(
    full_model: Trained, tmp_path: Path, dtype: Any, expected: torch.dtype
) -> None:
    tensors = safetensors.torch.load_file(exported(full_model, tmp_path, dtype))
    assert {value.dtype for key, value in tensors.items() if key.endswith(".weight")} == {expected}
    assert {(value.dtype, value.item(), value.shape) for key, value in tensors.items() if key.endswith(".alpha")} == {
        (torch.float32, ALPHA, torch.Size([]))
    }


def test_convolutions_are_written_with_four_axes(full_model: Trained, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(exported(full_model, tmp_path))
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape == (RANK, 16, 1, 1)
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"].shape == (16, RANK, 1, 1)
    assert tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"].shape == (RANK, 32)


def test_the_diffusers_file_is_pure_peft_layout_in_float32(full_model: Trained, tmp_path: Path) -> None:
    with safe_open(exported_to_diffusers(full_model, tmp_path), framework="pt") as file:
        keys = list(file.keys())
        assert {key.rsplit(".", 2)[1] for key in keys} == {"lora_A", "lora_B"}
        assert {key.partition(".")[0] for key in keys} == {"unet", "text_encoder"}
        assert {file.get_tensor(key).dtype for key in keys} == {torch.float32}


def test_the_diffusers_file_holds_the_scale_in_its_weights_for_loaders_that_read_no_metadata(
    full_model: Trained, tmp_path: Path
) -> None:
    file = exported_to_diffusers(full_model, tmp_path)
    tensors = safetensors.torch.load_file(file)
    name = "mid_block.attentions.0.proj_in.lora_{}{}.weight"
    for letter, scale in (("A", 1.0), ("B", ALPHA / RANK)):
        trained_weight = full_model.state["denoiser." + name.format(letter, ".default")]
        torch.testing.assert_close(tensors["unet." + name.format(letter, "")], trained_weight * scale)
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    for part in ("unet", "text_encoder"):
        assert metadata[f"{part}.r"] == metadata[f"{part}.lora_alpha"] == RANK
        assert metadata[f"{part}.rank_pattern"] == metadata[f"{part}.alpha_pattern"] == {}
    bare = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(tensors, bare)
    assert relative(full_model.output, output_of(loaded(full_model.source, bare))) < 1e-6


def test_a_folder_with_both_files_loads_without_a_file_name(full_model: Trained, tmp_path: Path) -> None:
    exported_to_diffusers(full_model, tmp_path)
    exported(full_model, tmp_path, "bf16").rename(tmp_path / "a-style.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(full_model.source.location, use_safetensors=True)
    pipeline.load_lora_weights(str(tmp_path))
    assert relative(full_model.output, output_of(pipeline)) < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-style.safetensors",
        "pytorch_lora_weights.safetensors",
    ]


@pytest.mark.parametrize("export", [exported, exported_to_diffusers])
def test_a_file_with_a_wrong_scale_is_refused(full_model: Trained, tmp_path: Path, export: Any) -> None:
    file = export(full_model, tmp_path, alpha=RANK)
    differences = differences_of(full_model, [file])
    with pytest.raises(ValueError, match=rf"(?s){file.name}.*--output.dtype fp32"):
        require_equal(differences)
    with pytest.raises(ValueError, match="a file"):
        require_equal({Path("a file"): float("nan")})


def test_a_file_without_one_of_the_layers_is_refused(full_model: Trained, tmp_path: Path) -> None:
    lost = "lora_unet_mid_block_attentions_0_proj_in"
    file = exported(full_model, tmp_path)
    kept = {key: value for key, value in safetensors.torch.load_file(file).items() if not key.startswith(lost)}
    safetensors.torch.save_file(kept, file)
    with pytest.raises(ValueError, match=r"203 of 204.*mid_block.attentions.0.proj_in"):
        differences_of(full_model, [file])
