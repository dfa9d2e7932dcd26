import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.loss import LossConfig
from finetune.config.parse.command_line import parse
from finetune.config.recipes import LoRATrainConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.run.checkpoint import load_checkpoint
from finetune.run.fingerprint import Identity, differences, model_identity
from finetune.run.resume import refuse_other_model
from finetune.run.weight_hashes import hashed_parts
from tests.support.damage import change_json, change_weight

FAMILY = StableDiffusion()
VERSION_0_1 = Path(__file__).parents[2] / "assets" / "checkpoint_v0_1"
"""Written by version 0.1."""


def identity_of(model: Path, cache: Path, vae: Path | None = None, **loss: Any) -> Identity:
    parts, hashes = hashed_parts(FAMILY, ModelSource(str(model), vae=None if vae is None else str(vae)), cache)
    return model_identity(parts.components, hashes, FAMILY.objective(parts.components.scheduler, LossConfig(**loss)))


def scaled(part: str, key: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (file,) = (model / part).glob("*.safetensors")
        change_weight(file, key, lambda weight: weight.mul_(1.05))

    return change


def rewritten(file: str, **entries: object) -> Callable[[Path], None]:
    return lambda model: change_json(model / file, **entries)


def swap_tokens(model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))


SCHEDULER = "scheduler/scheduler_config.json"
CHANGES: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "denoiser": (scaled("unet", "conv_in.weight"), {"denoiser": "other content"}),
    "vae": (scaled("vae", "encoder.conv_in.weight"), {"VAE": "other content"}),
    "text encoder": (scaled("text_encoder", "final_layer_norm.weight"), {"text encoder 1": "other content"}),
    "tokenizer": (swap_tokens, {"tokenizer 1": "other content"}),
    "longest prompt": (rewritten("tokenizer/tokenizer_config.json", model_max_length=70), {"tokenizer 1": "other"}),
    "scaling factor": (rewritten("vae/config.json", scaling_factor=0.2), {"VAE": "scaling_factor 0.18215 -> 0.2"}),
    "text layers": (rewritten("text_encoder/config.json", hidden_act="gelu"), {"text encoder 1": "-> gelu"}),
    "betas": (rewritten(SCHEDULER, beta_end=0.02), {"scheduler": "beta_end 0.012 -> 0.02", "objective": "alphas"}),
    "prediction": (
        rewritten(SCHEDULER, prediction_type="v_prediction"),
        {"scheduler": "prediction_type epsilon -> v_prediction", "objective": "prediction_type"},
    ),
    "one more setting": (rewritten(SCHEDULER, some_setting=True), {"scheduler": "some_setting absent -> True"}),
    "scheduler's class": (
        rewritten("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
        {"scheduler": "class PNDMScheduler -> DDIMScheduler"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_part_is_named_with_what_changed(name: str, tiny_model: Path, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    changed = shutil.copytree(tiny_model, tmp_path / "changed")
    change(changed)
    found = differences(identity_of(tiny_model, tmp_path), identity_of(changed, tmp_path))
    assert found.keys() == expected.keys()
    for part, text in expected.items():
        assert any(text in line for line in found[part]), found


def test_the_same_model_elsewhere_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert differences(identity_of(tiny_model, tmp_path), identity_of(moved, tmp_path)) == {}


def test_another_vae_by_option_is_another_vae(tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model / "vae", tmp_path / "vae")
    before = identity_of(tiny_model, tmp_path)
    assert differences(before, identity_of(tiny_model, tmp_path, other)) == {}
    scaled(".", "encoder.conv_in.weight")(other)
    assert list(differences(before, identity_of(tiny_model, tmp_path, other))) == ["VAE"]


def test_a_setting_that_a_library_assumes_by_itself_is_not_a_change(tiny_model: Path, tmp_path: Path) -> None:
    """Other versions of diffusers know more settings; those in a file count."""
    before, now = identity_of(tiny_model, tmp_path), identity_of(tiny_model, tmp_path)
    now["VAE"]["settings"]["new_setting"] = now["text encoder 1"]["settings"]["new_setting"] = False
    now["VAE"]["assumed"].append("new_setting")
    now["text encoder 1"]["assumed"].append("new_setting")
    assert differences(before, now) == differences(now, before) == {}
    now["VAE"]["assumed"].remove("new_setting")
    assert differences(before, now) == {"VAE": ["new_setting absent -> False"]}
    del now["text encoder 1"]
    assert differences(before, now)["text encoder 1"] == ["absent now"]


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> LoRATrainConfig:
    arguments = ["--model.source", str(tiny_model), "--data.folder", "images", "--output.folder", str(tmp_path)]
    return parse(LoRATrainConfig, [*arguments, "--loss.zero_terminal_snr"], program="recipes.lora")


def test_a_checkpoint_of_version_0_1_resumes_with_one_warning(config: LoRATrainConfig, tiny_model: Path) -> None:
    state = load_checkpoint(VERSION_0_1).state
    now = identity_of(tiny_model, config.output.folder)
    (warning,) = refuse_other_model(now, state["base_sha256"], VERSION_0_1, state, config)
    assert "version 0.1" in warning
    with pytest.raises(ValueError, match="denoiser"):
        refuse_other_model(now, "0" * 64, VERSION_0_1, state, config)


def test_options_of_the_loss_may_change_the_objective_and_nothing_else(
    config: LoRATrainConfig, tiny_v_model: Path, tmp_path: Path
) -> None:
    before = identity_of(tiny_v_model, tmp_path)
    now = identity_of(tiny_v_model, tmp_path, zero_terminal_snr=True)
    state = {"base_sha256": "", "model": before}
    assert list(differences(before, now)) == ["objective"]
    (tmp_path / "config.yaml").write_text("loss:\n  zero_terminal_snr: false\n")
    assert refuse_other_model(now, "", tmp_path, state, config) == []
    (tmp_path / "config.yaml").write_text("loss:\n  zero_terminal_snr: true\n")
    with pytest.raises(ValueError, match="objective"):
        refuse_other_model(now, "", tmp_path, state, config)
