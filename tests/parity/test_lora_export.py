import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor

from finetune.export.single_file import DIFFUSERS_FILE, single_file_name
from finetune.export.verify import prediction, relative_difference, reloaded_differences, require_equal
from finetune.methods.lora.adapters import adapted_layers, adapter_layers
from finetune.models.family import ModelSource
from tests.contract.test_single_file import expanded
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, Exported, fresh
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline

RANK, ALPHA = 4, 6.5
"""Of the kind "lora"."""
BLOCKS = ("down_blocks_{0,1,2}_attentions_{0,1}", "mid_block_attentions_0", "up_blocks_{1,2,3}_attentions_{0,1,2}")
INNER = ("{attn1,attn2}_{to_q,to_k,to_v,to_out_0}", "ff_net_{0_proj,2}")
LAYERS = ("{proj_in,proj_out}", *(f"transformer_blocks_0_{inner}" for inner in INNER))
CLIP = "{self_attn_q_proj,self_attn_k_proj,self_attn_v_proj,self_attn_out_proj,mlp_fc1,mlp_fc2}"
STABLE_DIFFUSION_15 = [f"lora_unet_{block}_{layer}" for block in BLOCKS for layer in LAYERS]
"""What sd-scripts adapts in the U-Net of Stable Diffusion 1.5: 192 layers."""


def read_by_diffusers(source: ModelSource, folder: Path, **names: str) -> Tensor:
    """Return the output of a plain pipeline with the file loaded."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(source.location, use_safetensors=True)
    pipeline.load_lora_weights(str(folder), **names)
    return prediction(FAMILY, components_of(pipeline))


def live(exported: Exported) -> Tensor:
    return prediction(FAMILY, exported.model.components)


@pytest.mark.parametrize(
    ("kind", "version"), [("lora", 1), ("convolutions and patterns", 1), ("rslora", 1), ("lora", 2)]
)
def test_a_fresh_diffusers_pipeline_gives_the_live_networks_output(
    kind: str, version: int, export: Export, source: ModelSource, tiny_v_model: Path
) -> None:
    source = source if version == 1 else ModelSource(str(tiny_v_model))
    exported = export(kind, source=source)
    assert relative_difference(live(exported), prediction(FAMILY, fresh(source))) > 0.02
    for name in (DIFFUSERS_FILE, "style.safetensors"):
        assert relative_difference(live(exported), read_by_diffusers(source, exported.folder, weight_name=name)) < 1e-5


def test_rounding_to_bf16_costs_less_than_a_hundredth_of_the_adapters_effect(
    export: Export, source: ModelSource
) -> None:
    exported = export("lora", "bf16")
    effect = relative_difference(live(exported), prediction(FAMILY, fresh(source)))
    assert 1e-5 < exported.differences["style.safetensors"] < 0.01 * effect


def test_the_single_file_has_the_key_names_of_stable_diffusion_15() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel()
    text_encoder = build_pipeline(size="micro").text_encoder
    found = [
        single_file_name(FAMILY, unet, part, name)
        for part, module, targets in (
            ("denoiser", unet, FAMILY.lora_targets),
            ("text_encoders.0", text_encoder, FAMILY.text_encoder_lora_targets),
        )
        for name in adapted_layers(module, part, targets)
    ]
    lines = [*STABLE_DIFFUSION_15, f"lora_te_text_model_encoder_layers_{{0,1}}_{CLIP}"]
    assert len(found) == 192 + 12 and set(found) == {name for line in lines for name in expanded(line)}


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_weights_have_the_files_dtype_and_axes_and_alpha_stays_float32(
    dtype: str, expected: torch.dtype, export: Export
) -> None:
    tensors = export("lora", dtype).tensors()
    assert {value.dtype for key, value in tensors.items() if key.endswith(".weight")} == {expected}
    assert {(value.dtype, value.item(), value.shape) for key, value in tensors.items() if key.endswith(".alpha")} == {
        (torch.float32, ALPHA, torch.Size([]))
    }
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape == (RANK, 16, 1, 1)
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"].shape == (16, RANK, 1, 1)
    assert tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"].shape == (RANK, 32)


def test_the_diffusers_file_holds_the_scale_in_its_weights_for_loaders_that_read_no_metadata(
    export: Export, source: ModelSource, tmp_path: Path
) -> None:
    """In peft's layout and in float32, whatever output.dtype is."""
    exported = export("lora", "fp16")
    tensors = safetensors.torch.load_file(exported.folder / DIFFUSERS_FILE)
    assert {key.rsplit(".", 2)[1] for key in tensors} == {"lora_A", "lora_B"}
    assert {key.partition(".")[0] for key in tensors} == {"unet", "text_encoder"}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    name = "mid_block.attentions.0.proj_in.lora_{}{}.weight"
    for letter, scale in (("A", 1.0), ("B", ALPHA / RANK)):
        trained_weight = exported.model.state["denoiser." + name.format(letter, ".default")]
        torch.testing.assert_close(tensors["unet." + name.format(letter, "")], trained_weight * scale)
    with safe_open(exported.folder / DIFFUSERS_FILE, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    for part in ("unet", "text_encoder"):
        assert metadata[f"{part}.r"] == metadata[f"{part}.lora_alpha"] == RANK
        assert metadata[f"{part}.rank_pattern"] == metadata[f"{part}.alpha_pattern"] == {}
    safetensors.torch.save_file(tensors, tmp_path / "bare.safetensors")
    bare = read_by_diffusers(source, tmp_path, weight_name="bare.safetensors")
    assert relative_difference(live(exported), bare) < 1e-5


def test_a_folder_with_both_files_loads_without_a_file_name(export: Export, source: ModelSource) -> None:
    exported = export("lora", "bf16")  # so that the single file would give another output
    assert relative_difference(live(exported), read_by_diffusers(source, exported.folder)) < 1e-5


@pytest.mark.parametrize(("name", "end"), [(DIFFUSERS_FILE, "lora_B.weight"), ("style.safetensors", "alpha")])
def test_a_file_with_a_wrong_scale_is_refused(
    name: str, end: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    exported = export("lora")
    with safe_open(exported.folder / name, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(exported.folder / name)
    scaled = {key: value * (RANK / ALPHA if key.endswith(end) else 1) for key, value in tensors.items()}
    safetensors.torch.save_file(scaled, tmp_path / name, metadata)
    expected = {layer for layer, _ in adapter_layers(exported.model.network)}
    differences = reloaded_differences(FAMILY, source, live(exported), expected, [tmp_path / name])
    with pytest.raises(ValueError, match=rf"(?s){name}.*--output.dtype fp32"):
        require_equal(differences)
    with pytest.raises(ValueError, match="a file"):
        require_equal({Path("a file"): float("nan")})
