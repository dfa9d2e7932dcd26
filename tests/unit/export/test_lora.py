import resource
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from finetune.export.lora import lora_layers, save_diffusers_lora, save_kohya_lora
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from tests.tiny import sd as tiny

NAME = "denoiser.mid_block.attentions.0.proj_in"
GOOD = {
    f"{NAME}.lora_A.default.weight": torch.ones(2, 16, 1, 1),
    f"{NAME}.lora_B.default.weight": torch.ones(16, 2, 1, 1),
}


def layers_of(state):
    return lora_layers(state, defaultdict(lambda: 1.0))


def save(state, path: Path, dtype="fp16"):
    return save_kohya_lora(StableDiffusion(), None, layers_of(state), metadata={}, dtype=dtype, path=path)


def test_layers_carry_part_name_and_matrices() -> None:
    (layer,) = layers_of(GOOD)
    assert (layer.part, layer.module) == ("denoiser", "mid_block.attentions.0.proj_in")
    assert layer.down.shape == (2, 16, 1, 1) and layer.up.shape == (16, 2, 1, 1)


def test_a_state_that_is_not_a_complete_lora_is_refused_by_the_name_of_the_layer() -> None:
    bad = {
        "not a LoRA weight": GOOD | {"denoiser.conv_in.weight": torch.ones(1)},
        "not finite": GOOD | {f"{NAME}.lora_A.default.weight": torch.full((2, 16, 1, 1), torch.nan)},
        "proj_in": {f"{NAME}.lora_A.default.weight": torch.ones(2, 16, 1, 1)},
        r"lora_A \[rank": GOOD | {f"{NAME}.lora_B.default.weight": torch.ones(16, 3, 1, 1)},
        "has no LoRA": {},
    }
    for word, state in bad.items():
        with pytest.raises(ValueError, match=word):
            layers_of(state)


def test_a_weight_too_large_for_half_precision_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    state = {key: weight * 1e5 for key, weight in GOOD.items()}
    with pytest.raises(ValueError, match=r"output\.dtype.*bf16"):
        save(state, tmp_path / "style.safetensors")
    assert not list(tmp_path.iterdir())
    save(state, tmp_path / "style.safetensors", dtype="bf16")


def test_layers_that_sd_scripts_ignores_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("conv_in", "time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj")
    outside = {f"denoiser.{name}.lora_{end}.default.weight": torch.ones(2, 2) for name in names for end in "AB"}
    save(GOOD, tmp_path / "a.safetensors")
    assert not caplog.records
    save(GOOD | outside, tmp_path / "b.safetensors")
    (message,) = caplog.messages
    assert "b.safetensors but conv_in, time_embedding.linear_1;" in message


def test_two_layers_with_one_flattened_name_are_refused(tmp_path: Path) -> None:
    twin = {key.replace("mid_block.attentions", "mid.block_attentions"): weight for key, weight in GOOD.items()}
    with pytest.raises(ValueError, match="lora_unet_mid_block_attentions_0_proj_in"):
        save(GOOD | twin, tmp_path / "style.safetensors")


def test_the_name_of_the_diffusers_file_is_not_given_to_the_other_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output\.name"):
        save(GOOD, tmp_path / "pytorch_lora_weights.safetensors")


def test_an_older_file_stays_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    """A file size limit ends both in the middle of a write."""
    family = StableDiffusion()
    components = family.load(ModelSource(str(tiny.save_pipeline(tmp_path / "base"))))
    folder = tmp_path / "export"
    large = {key: weight.new_ones(weight.shape[0] * 100, *weight.shape[1:]) for key, weight in GOOD.items()}
    large[f"{NAME}.lora_B.default.weight"] = torch.ones(1600, 200, 1, 1)
    before = save(GOOD, folder / "style.safetensors").read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, unlimited[1]))
    try:
        with pytest.raises(OSError, match=r"style\.safetensors could not be written.*bytes"):
            save(large, folder / "style.safetensors")
        with pytest.raises(OSError, match=r"pytorch_lora_weights\.safetensors could not be written.*bytes"):
            save_diffusers_lora(family, components, layers_of(large), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"style.safetensors": before}
