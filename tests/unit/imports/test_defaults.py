"""Defaults of the trainers, read in their sources."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.imports.command import import_config
from tests.unit.imports.test_folders import ai_toolkit, one_trainer, simple_tuner, written
from tests.unit.imports.test_import import imported


def command(words: str, path: Path) -> tuple[dict[str, Any], str]:
    """Import a command line; return what was written, and the printed lines."""
    path.with_suffix(".sh").write_text(f"accelerate launch {words} --output_dir out --max_train_steps 2000\n")
    text, _ = imported(path.with_suffix(".sh"), path.with_suffix(".yaml"))
    return yaml.safe_load(path.with_suffix(".yaml").read_text()), text


FLOW: dict[str, object] = {"train": {"noise_scheduler": "flowmatch"}, "model": {"name_or_path": "m", "is_flux": True}}


def test_alpha_is_the_rank_in_ai_toolkit_for_flow_matching_alone(tmp_path: Path) -> None:
    network: dict[str, object] = {"network": {"type": "lora", "linear": 16, "linear_alpha": 4}}
    config, text = written(ai_toolkit([], **network, **FLOW), tmp_path / "flux.json")
    assert config["lora"] == {"kind": "lora", "rank": 16} and "does not read it for models of flow matching" in text
    config, _ = written(ai_toolkit([], **network), tmp_path / "sd.json")
    assert config["lora"]["alpha"] == 4
    both: dict[str, object] = {"network": {"linear_alpha": 4, "linear": 16, "alpha": 2}}
    assert written(ai_toolkit([], **both), tmp_path / "both.json")[0]["lora"]["alpha"] == 4
    alone: dict[str, object] = {"network": {"linear": 16, "alpha": 2}}
    assert written(ai_toolkit([], **alone), tmp_path / "alone.json")[0]["lora"]["alpha"] == 2


@pytest.mark.parametrize("given", [{}, {"lokr_full_rank": True}])
def test_lokr_is_full_by_default_in_ai_toolkit(given: dict[str, object], tmp_path: Path) -> None:
    network: dict[str, object] = {"network": {**given, "type": "lokr", "linear": 16, "linear_alpha": 2}}
    config, text = written(ai_toolkit([], **network), tmp_path / "full.json")
    assert config["lora"] == {"kind": "lokr", "rank": 10000, "factor": -1} and "lokr_full_rank true" in text
    low: dict[str, object] = {"network": {"type": "lokr", "linear": 16, "linear_alpha": 2, "lokr_full_rank": False}}
    config, _ = written(ai_toolkit([], **low), tmp_path / "low.json")
    assert config["lora"] == {"kind": "lokr", "rank": 16, "alpha": 2, "factor": -1}


def test_a_rank_that_makes_every_factor_full_has_a_scale_of_one(tmp_path: Path) -> None:
    (tmp_path / "lycoris.json").write_text('{"algo": "lokr", "linear_dim": 10000, "linear_alpha": 1, "factor": 12}')
    config, text = simple_tuner([], tmp_path / "st.json", lora_type="lycoris", lycoris_config="lycoris.json")
    assert config["lora"] == {"kind": "lokr", "rank": 10000, "factor": 12} and "scaled by" not in text
    (tmp_path / "lycoris.json").write_text('{"algo": "lokr", "linear_dim": 8}')
    config, text = simple_tuner([], tmp_path / "low.json", lora_type="lycoris", lycoris_config="lycoris.json")
    assert config["lora"] == {"kind": "lokr", "rank": 8, "alpha": 1, "factor": -1}
    assert "full at that rank have a scale of 1 there" in text
    concept: dict[str, object] = {"path": "a"}
    lokr: dict[str, object] = {"peft_type": "LOKR", "lokr_full_matrix": True}
    assert written(one_trainer(concept, **lokr), tmp_path / "one.json")[0]["lora"]["rank"] == 10000


def test_an_average_without_a_decay_has_the_trainers_own(tmp_path: Path) -> None:
    theirs = ai_toolkit([], train={"ema_config": {"use_ema": True}})
    assert written(theirs, tmp_path / "ai.json")[0]["train"]["ema_decay"] == 0.999
    config, _ = simple_tuner([], tmp_path / "st.json", use_ema=True, offset_noise=True)
    assert config["train"]["ema_decay"] == 0.995 and config["train"]["ema_device"] == "cpu"
    assert config["loss"]["offset_noise"] == 0.1
    assert written(one_trainer({"path": "a"}, ema="CPU"), tmp_path / "one.json")[0]["train"]["ema_decay"] == 0.999


def test_optimizers_keep_the_decay_and_betas_that_they_have_there(tmp_path: Path) -> None:
    for name, decay, beta2 in (("prodigy", 0, None), ("lion8bit", 0, 0.99), ("adamw8bit", None, None)):
        optim = written(ai_toolkit([], train={"optimizer": name, "lr": 1}), tmp_path / f"ai_{name}.json")[0]["optim"]
        assert (optim.get("weight_decay"), optim.get("beta2")) == (decay, beta2), name
        words = f"train_network.py --network_dim 4 --optimizer_type {name}"
        optim = command(words, tmp_path / f"sd_{name}")[0]["optim"]
        assert (optim.get("weight_decay"), optim.get("beta2")) == (decay, beta2), name
    optim = written(one_trainer({"path": "a"}, optimizer={"optimizer": "ADAFACTOR"}), tmp_path / "one.json")[0]["optim"]
    assert optim["weight_decay"] == 0
    given = command('train_network.py --optimizer_type Prodigy --optimizer_args "weight_decay=0.1"', tmp_path / "given")
    assert given[0]["optim"]["weight_decay"] == 0.1


def test_schedules_that_mean_something_else_are_named(tmp_path: Path) -> None:
    config, text = written(ai_toolkit([], train={"lr_scheduler": "linear"}), tmp_path / "linear.json")
    assert "schedule" not in config.get("optim", {}) and "linear there rises from a third" in text
    theirs = ai_toolkit([], train={"lr_scheduler": "constant_with_warmup", "steps": 3000})
    assert written(theirs, tmp_path / "warm.json")[0]["optim"]["warmup_steps"] == 1000


def test_defaults_of_a_script_of_diffusers_are_its_own(tmp_path: Path) -> None:
    config, text = command("train_dreambooth_lora_flux.py --rank 16 --lr_scheduler cosine", tmp_path / "flux")
    assert config["lora"]["alpha"] == 4 and config["optim"] == {
        "weight_decay": 1e-4, "schedule": "cosine", "warmup_steps": 500
    }  # fmt: skip
    assert "guidance_scale 3.5, its default there" in text
    config, _ = command("train_dreambooth_lora_sd3.py --rank 16", tmp_path / "sd3")
    assert config["loss"]["timestep_density"] == "logit_normal" and "alpha" not in config["lora"]
    config, _ = command("train_text_to_image_lora_sdxl.py --rank 16", tmp_path / "sdxl")
    assert config["data"]["resolution"] == 1024 and "optim" not in config
    config, _ = command("textual_inversion_sdxl.py --placeholder_token '<a>'", tmp_path / "ti")
    assert config["data"]["resolution"] == 512


def test_defaults_of_a_script_of_sd_scripts_are_its_own(tmp_path: Path) -> None:
    config, text = command("flux_train_network.py --network_dim 4 --optimizer_type adafactor", tmp_path / "flux")
    assert config["loss"]["timestep_shift"] == 3 and config["output"]["dtype"] == "fp32"
    for words in ("relative_step true", "model_prediction_type sigma_scaled", "guidance_scale 3.5"):
        assert f"{words}, its default there: " in text
    config, text = command("sd3_train_network.py --network_dim 4", tmp_path / "sd3")
    assert config["loss"]["timestep_shift"] == 1 and "sigma_scaled" not in text
    (tmp_path / "sd3.toml").write_text('network_module = "networks.lora_sd3"\noutput_dir = "out"\n')
    imported(tmp_path / "sd3.toml", tmp_path / "toml.yaml")  # a config file does not name its script
    assert yaml.safe_load((tmp_path / "toml.yaml").read_text())["loss"]["timestep_shift"] == 1
    config, _ = command("train_network.py --network_dim 4 --multires_noise_iterations 6", tmp_path / "noise")
    assert config["loss"]["pyramid_noise"] == 0.3


@pytest.mark.parametrize(("given", "trained", "steps"), [("", True, None), ("300", True, 300), ("-1", False, None)])
def test_train_db_trains_the_text_encoder_unless_it_is_told(
    given: str, trained: bool, steps: int | None, tmp_path: Path
) -> None:
    option = f"--stop_text_encoder_training={given}" if given else ""
    train = command(f"train_db.py --train_data_dir a {option}", tmp_path / "db")[0]["train"]
    assert train["text_encoder"] is trained and train.get("text_encoder_steps") == steps


def test_cut_images_of_simple_tuner_are_squares_by_default(tmp_path: Path) -> None:
    config, _ = simple_tuner([{"instance_data_dir": "a", "crop": True}], tmp_path / "st.json")
    assert config["data"]["max_aspect"] == 1 and config["data"]["crop"] == "random"
    assert config["tracking"]["names"] == []
    config, _ = simple_tuner([{"instance_data_dir": "a"}], tmp_path / "whole.json", max_train_steps=0)
    assert "max_aspect" not in config["data"] and config["train"]["epochs"] == 1


def test_numbers_of_one_trainer_that_are_not_saved(tmp_path: Path) -> None:
    concept: dict[str, object] = {"path": "a", "text": {"enable_tag_shuffling": True}}
    options: dict[str, object] = {"loss_weight_fn": "P2", "masked_training": True, "timestep_distribution": "SIGMOID"}
    config, text = written(one_trainer(concept, **options), tmp_path / "one.json")
    assert config["data"]["keep_tags"] == 1 and config["loss"] == {"weighting": "p2", "p2_gamma": 5}
    assert config["train"]["gradient_checkpointing"] is True and "--mixed_precision fp16" in text
    assert "unmasked_probability 0.1, its default there" in text and "timestep_distribution SIGMOID: " in text
    new: dict[str, object] = {"training_method": "EMBEDDING"}
    assert written(one_trainer(concept, **new), tmp_path / "new.json")[0]["tokens"]["names"] == ["<embedding>"]


def test_the_extension_of_captions_that_sd_scripts_reads_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("a cat")
    words = f"train_network.py --network_dim 4 --train_data_dir {tmp_path / 'a'}"
    assert "caption_extension not given, .caption there" in command(words, tmp_path / "without")[1]
    assert "caption_extension not given" not in command(f"{words} --caption_extension .txt", tmp_path / "with")[1]


def test_the_strength_of_a_lora_is_not_the_weight_of_a_folder(tmp_path: Path) -> None:
    datasets: list[dict[str, object]] = [{"folder_path": "a", "network_weight": 0.5}, {"folder_path": "b"}]
    config, text = written(ai_toolkit(datasets), tmp_path / "several.json")
    assert config["data"]["folders"] == [{"folder": "a"}, {"folder": "b"}]
    assert text.count("network_weight 0.5: it is the strength of the LoRA") == 1
    _, text = written(ai_toolkit(datasets[:1]), tmp_path / "single.json")
    assert "datasets.network_weight 0.5: it is the strength of the LoRA" in text


@pytest.mark.parametrize(("resolution", "ours", "step"), [(720, 720, 16), (632, 632, 8), (500, 512, None)])
def test_a_resolution_that_no_step_of_64_divides(resolution: int, ours: int, step: int | None, tmp_path: Path) -> None:
    config, _ = written(ai_toolkit([{"folder_path": "a", "resolution": resolution}]), tmp_path / "ai.json")
    assert config["data"]["resolution"] == ours and config["data"].get("bucket_step") == step


def test_values_that_turn_an_option_off_have_no_remark(tmp_path: Path) -> None:
    _, text = simple_tuner([], tmp_path / "st.json", base_model_precision="no_change", musubi_blocks_to_swap=0)
    assert "base_model_precision no_change -> model.quantization none\n" in text
    assert "8 or 4 bits" not in text and "in host memory" not in text


@pytest.mark.parametrize("theirs", ["$DATA/img", "${DATA}/img", "%DATA%/img", "$env:DATA/img", "{env:DATA}"])
def test_paths_with_variables_that_nothing_sets_are_left_to_fill_in(theirs: str, tmp_path: Path) -> None:
    config, text = written(ai_toolkit([{"folder_path": theirs}]), tmp_path / "ai.json")
    assert "folder" not in config["data"] and f"data.folder {theirs}: the variable " in text
    assert "Still needed: " in text and "data.folder" in text.split("Still needed: ")[1]


@pytest.mark.parametrize("job", ["generate", "extract", "mod"])
def test_jobs_that_do_not_train_name_the_command(job: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"job: {job}\nconfig: {{name: a, process: [{{type: x}}]}}\n")
    with pytest.raises(ValueError, match=rf"its job is {job}, which does not train.* Use finetune "):
        import_config(tmp_path / "job.yaml", [], tmp_path / "new.yaml", print)


def test_what_is_needed_is_named_when_their_value_is_refused(tmp_path: Path) -> None:
    config, text = simple_tuner([], tmp_path / "st.json", output_dir="out/lora+more?")
    assert "output.folder" in text.split("Still needed: ")[1] and "folder" not in config.get("output", {})
