"""The steps at which other trainers save and draw."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.imports.test_defaults import command
from tests.unit.imports.test_folders import ai_toolkit, images, one_trainer, simple_tuner, written

ALL = 1000


def test_ai_toolkit_draws_and_saves_by_its_defaults(tmp_path: Path) -> None:
    config, _ = written(ai_toolkit([], sample={"prompts": ["a cat"]}), tmp_path / "ai.json")
    assert config["checkpoint"] == {"every": 1000, "keep": 5, "export": True}
    assert config["preview"] == {
        "prompts": ["a cat"], "every": 100, "num_inference_steps": 20, "guidance_scale": 7, "size": 512,
    }  # fmt: skip
    config, text = written(ai_toolkit([], network=None), tmp_path / "full.json")
    assert config["checkpoint"] == {"every": 1000, "keep": 5} and "preview" not in config
    assert "sample" not in text


def test_simple_tuner_draws_and_saves_by_its_defaults(tmp_path: Path) -> None:
    config, _ = simple_tuner([], tmp_path / "st.json", validation_prompt="a cat")
    assert config["checkpoint"] == {"every": 500, "keep": 5, "export": True}
    assert config["preview"] == {"prompts": ["a cat"], "every": 100, "guidance_scale": 7.5, "size": 256}


def test_samples_keep_options_of_their_own(tmp_path: Path) -> None:
    one: dict[str, object] = {"prompt": "a cat", "diffusion_steps": 9, "cfg_scale": 4, "noise_scheduler": "EULER_A"}
    one |= {"negative_prompt": "bad", "seed": 42, "random_seed": True}
    config, _ = written(one_trainer({"path": "a"}, samples=[one]), tmp_path / "one.json")
    assert config["preview"]["prompts"] == ["a cat --s 9 --l 4 --ss EULER_A --n bad"]
    item: dict[str, object] = {"prompt": "a cat", "sample_steps": 9, "guidance_scale": 4, "neg": "bad", "seed": 3}
    config, _ = written(ai_toolkit([], sample={"samples": [item]}), tmp_path / "ai.json")
    assert config["preview"]["prompts"] == ["a cat --d 3 --s 9 --l 4 --n bad"]


@pytest.mark.parametrize(("unit", "every"), [("STEP", 7), ("EPOCH", 14)])
def test_units_of_one_trainer_are_steps_and_epochs(unit: str, every: int, tmp_path: Path) -> None:
    concept: dict[str, object] = {"path": images(tmp_path / "a", 2), "include_subdirectories": True}
    theirs: dict[str, object] = {"samples": [{"prompt": "a cat"}], "sample_after": 7, "sample_after_unit": unit}
    theirs |= {"save_every": 7, "save_every_unit": unit, "rolling_backup": True, "backup_after": 0}
    config, _ = written(one_trainer(concept, **theirs), tmp_path / "one.json")
    assert config["preview"]["every"] == every
    assert config["checkpoint"] == {"every": every, "keep": 3, "export": True}


def test_times_of_one_trainer_are_named(tmp_path: Path) -> None:
    concept: dict[str, object] = {"path": "a"}
    config, text = written(one_trainer(concept, samples=[{"prompt": "a cat"}]), tmp_path / "one.json")
    assert "every" not in config["preview"] and "checkpoint" not in config
    for words in ("sample_after 10, its default there: previews", "backup_after 30, its default there: checkpoints"):
        assert words in text
    assert "rolling_backup_count not given: without rolling_backup all backups are kept there" in text
    assert "learning_rate_warmup_steps 200, its default there -> optim.warmup_steps 200" in text


@pytest.mark.parametrize(
    ("script", "preview"),
    [
        ("train_dreambooth_lora.py --rank 4 --instance_prompt a", {"every": 100, "num_seeds": 4}),
        ("train_text_to_image_lora.py --rank 4", {"every": 2, "num_seeds": 4}),
        ("train_text_to_image.py", {"every": 10}),
        ("train_dreambooth.py --instance_prompt a", {"every": 100, "num_seeds": 4}),
        ("train_dreambooth.py --instance_prompt a --validation_steps 30", {"every": 30, "num_seeds": 4}),
    ],
)
def test_scripts_of_diffusers_draw_and_save_by_their_defaults(
    script: str, preview: dict[str, int], tmp_path: Path
) -> None:
    option = "instance_data_dir" if "dreambooth" in script else "train_data_dir"
    words = f"{script} --{option} {images(tmp_path / 'a', 2)} --validation_prompt 'a cat' --train_batch_size 1"
    config, text = command(words, tmp_path / "diffusers")
    assert config["preview"] == {"prompts": ["a cat"], **preview}
    is_lora = "lora" in script
    saved: dict[str, Any] = {"every": 500, "keep": ALL, "export": True} if is_lora else {"every": 500}
    assert config["checkpoint"] == saved
    assert ("all checkpoints are kept there; here the newest" in text) != is_lora


def test_sd_scripts_saves_and_draws_when_it_is_told(tmp_path: Path) -> None:
    words = "train_network.py --network_dim 4 --sample_prompts 'a cat'"
    config, text = command(words, tmp_path / "without")
    assert config["preview"] == {"prompts": ["a cat"], "size": 512} and "checkpoint" not in config
    assert "save_every_n_steps not given: only the end is saved there" in text
    assert "sample_every_n_steps not given: without it and sample_every_n_epochs no images are drawn there" in text
    config, text = command(f"{words} --sample_every_n_steps 50 --save_every_n_steps 20", tmp_path / "steps")
    assert config["checkpoint"] == {"every": 20, "keep": ALL, "export": True} and config["preview"]["every"] == 50
    assert "not given: without it" not in text and "only the end" not in text
    config, _ = command(f"{words} --save_every_n_steps 20 --save_last_n_epochs 3", tmp_path / "last")
    assert config["checkpoint"] == {"every": 20, "keep": 3, "export": True}
    config, text = command("train_db.py --save_every_n_steps 20", tmp_path / "full")
    assert config["checkpoint"] == {"every": 20} and "all saved models are kept there" in text


def test_files_of_adapters_that_need_the_base_model_are_written_at_the_end(tmp_path: Path) -> None:
    words = "train_network.py --network_dim 4 --save_every_n_steps 20 --network_module lycoris.kohya"
    config, text = command(f"{words} --network_args algo=lora dora_wd=True", tmp_path / "dora")
    assert config["checkpoint"] == {"every": 20, "keep": ALL} and config["lora"]["dora"] is True
    assert "checkpoint.export true: refused." in text
