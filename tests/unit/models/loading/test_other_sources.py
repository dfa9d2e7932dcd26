import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from finetune.models.loading.other_sources import folder_contents
from tests.support.damage import change_json
from tests.support.original_layout import save_single_file, vae_weights
from tests.tiny.flux import build_transformer
from tests.tiny.sd import build_pipeline, save_pictures, save_pipeline

FLUX = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "img_in.weight")
FILES = {
    "LoRA": (["lora_unet_x.lora_down.weight", "lora_unet_x.alpha"], "looks like an adapter (LoRA)"),
    "peft LoRA": (["transformer.x.lora_A.weight"], "looks like an adapter (LoRA)"),
    "LoKr": (["lycoris_x.lokr_w1"], "looks like an adapter (LoRA)"),
    "new token": (["emb_params"], "vectors of a new token"),
    "checkpoint": (["denoiser.conv_in.weight"], "weights in a run's checkpoint"),
    "transformer": (FLUX, "a denoiser (U-Net or transformer) alone. Use the whole model"),
    "ComfyUI transformer": ([f"model.diffusion_model.{key}" for key in FLUX], "transformer) alone"),
    "CLIP": (["text_model.final_layer_norm.weight"], "a text encoder alone"),
    "T5": (["shared.weight", "encoder.block.0.layer.0.layer_norm.weight"], "a text encoder alone"),
    "ControlNet": (["control_model.input_blocks.0.0.weight"], "ControlNet"),
    "nothing known": (["a.b.weight"], "is not a whole model"),
}


def refusal(source: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        find_family(ModelSource(str(source)))
    text = str(caught.value)
    assert text.startswith("model.source: ") and "\n" not in text
    return text


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_a_whole_model_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    keys, words = FILES[kind]
    safetensors.torch.save_file({key: torch.zeros(1) for key in keys}, tmp_path / "x.safetensors")
    assert words in refusal(tmp_path / "x.safetensors")


def test_files_of_real_parts_are_called_what_they_are(tmp_path: Path) -> None:
    pipeline = build_pipeline(size="micro")
    for name, weights, words in (
        ("vae", pipeline.vae.state_dict(), "a VAE alone. Use the base model, and this file with --model.vae"),
        ("vae", vae_weights(pipeline.vae), "a VAE alone"),
        ("clip", pipeline.text_encoder.state_dict(), "a text encoder alone"),
        ("unet", pipeline.unet.state_dict(), "a denoiser (U-Net or transformer) alone"),
        ("flux", build_transformer(guidance=True).state_dict(), "a denoiser (U-Net or transformer) alone"),
    ):
        file = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, file)
        assert words in refusal(file)


def test_weights_with_scales_are_refused_before_they_are_read_as_numbers(tmp_path: Path) -> None:
    file = save_single_file(build_pipeline(size="micro"), tmp_path / "fp8.safetensors")
    weights = safetensors.torch.load_file(file)
    for added in ({"scaled_fp8": torch.zeros(0)}, {"model.diffusion_model.out.2.scale_weight": torch.ones(1)}):
        safetensors.torch.save_file(weights | added, file)
        assert "in 8 bits (fp8) with scales" in refusal(file)


def test_a_part_that_is_stored_quantised_is_refused(tmp_path: Path) -> None:
    model = save_pipeline(tmp_path / "model", size="micro")
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    change_json(model / "unet" / "config.json", quantization_config=quantised)
    with pytest.raises(ValueError, match=r"^model\.source: unet of .* is stored quantised .*--model\.quantization"):
        StableDiffusion().denoiser(ModelSource(str(model)))


def test_a_folder_of_something_else_is_called_what_it_is(tmp_path: Path) -> None:
    model = save_pipeline(tmp_path / "models" / "ink", size="micro")
    assert f"Use a folder inside it: {model}" in refusal(model.parent)
    assert f"one part of a model alone. Use the folder of the whole model: {model}" in refusal(model / "unet")
    snapshot = tmp_path / "models--owner--ink" / "snapshots" / ("1" * 40)
    shutil.copytree(model, snapshot)
    assert str(snapshot) in refusal(tmp_path / "models--owner--ink")
    assert "images, which belong into --data.folder" in refusal(save_pictures(tmp_path / "images", count=1))
    for files, words in (
        (["ink.safetensors", "other.safetensors"], "single files. Use one of them"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter (LoRA)"),
        (["pytorch_lora_weights.safetensors", "ink.safetensors"], "an adapter (LoRA)"),
        (["manifest.json", "trained.safetensors"], "a run's checkpoint. Use the base model here"),
        (["config.yaml", "export/ink.safetensors"], "a run's folder"),
        (["a.ckpt"], "pickles"),
        (["dev-Q8_0.gguf"], "GGUF"),
        (["README"], "expected a folder in diffusers layout."),
    ):
        folder = tmp_path / "folder"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("")
        assert words in refusal(folder)
        shutil.rmtree(folder)


def test_a_repository_of_single_files_says_how_to_get_one() -> None:
    found = folder_contents({"README.md", "ink.safetensors"}, "owner/ink", is_local=False)
    assert "`hf download owner/ink ink.safetensors --local-dir .`" in found


def test_a_run_that_has_an_export_of_a_whole_model_leads_to_it(tmp_path: Path) -> None:
    save_pipeline(tmp_path / "run" / "export", size="micro")
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({}))
    assert f"Use a folder inside it: {tmp_path / 'run' / 'export'}" in refusal(tmp_path / "run")
