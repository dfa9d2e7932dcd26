"""Configs that train what no recipe trains."""

from pathlib import Path

import pytest
import yaml

from finetune.imports.command import import_config
from tests.unit.imports.test_defaults import command
from tests.unit.imports.test_folders import ai_toolkit, one_trainer, simple_tuner, written
from tests.unit.imports.test_import import imported


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "concept_slider"}, "type concept_slider of ai-toolkit: sliders learn from pairs of prompts"),
        ({"slider": {"targets": []}}, "slider.targets of ai-toolkit: sliders learn"),
        ({"type": "vae"}, "type vae of ai-toolkit: it trains a VAE. Use recipes.pretrain"),
        ({"type": "esrgan"}, "type esrgan of ai-toolkit: it is not the trainer"),
        ({"adapter": {"type": "ip", "train": True}}, "adapter.train True of ai-toolkit: adapters that take images"),
        ({"model": {"name_or_path": "m", "arch": "wan21"}}, "model.arch wan21 of ai-toolkit: docs/families.md lists"),
        ({"model": {"name_or_path": "m", "is_lumina2": True}}, "model.is_lumina2 of ai-toolkit: docs/families.md"),
    ],
)
def test_jobs_of_ai_toolkit_for_something_else_are_refused(
    options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        written(ai_toolkit([], **options), tmp_path / "theirs.json")
    assert words in str(caught.value) and not (tmp_path / "theirs.new.yaml").exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train_controlnet_sdxl.py", "of diffusers: ControlNets"),
        ("train_t2i_adapter_sdxl.py", "of diffusers: ControlNets and adapters"),
        ("train_instruct_pix2pix.py", "of diffusers: models that edit"),
        ("train_dreambooth_lora_qwen_image.py", "of diffusers: docs/families.md lists"),
        ("train_unconditional.py", "of diffusers: it trains a model from its start. recipes.pretrain"),
        ("sdxl_train_control_net_lllite.py", "of sd-scripts: ControlNets are not trained here"),
        ("qwen_image_train_network.py", "of sd-scripts: docs/families.md lists"),
        ("hunyuan_image_train_network.py", "of sd-scripts: docs/families.md lists"),
    ],
)
def test_scripts_for_something_else_are_refused(script: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        command(f"{script} --pretrained_model_name_or_path m --resolution 512", tmp_path / "theirs")
    assert f"script {script} {words}" in str(caught.value)


def test_so_are_methods_and_models_of_the_others(tmp_path: Path) -> None:
    for options, words in (
        ({"training_method": "FINE_TUNE_VAE"}, "it trains a VAE. Use recipes.pretrain --stage autoencoder"),
        ({"model_type": "Z_IMAGE"}, "model_type Z_IMAGE of OneTrainer: docs/families.md"),
        ({"model_type": "FLUX_FILL_DEV_1"}, "model_type FLUX_FILL_DEV_1 of OneTrainer"),
    ):
        with pytest.raises(ValueError, match=words):
            written(one_trainer({"path": "a"}, **options), tmp_path / "one.json")
    for options, words in (({"controlnet": True}, "ControlNets"), ({"model_family": "wan"}, "docs/families.md")):
        with pytest.raises(ValueError, match=words):
            simple_tuner([], tmp_path / "st.json", **options)
    (tmp_path / "sd.toml").write_text('network_module = "networks.lora_lumina"\nnetwork_dim = 4\n')
    with pytest.raises(ValueError, match=r"network_module networks\.lora_lumina of sd-scripts: docs/families\.md"):
        import_config(tmp_path / "sd.toml", [], tmp_path / "new.yaml", print)


def test_what_is_trained_here_is_not_refused(tmp_path: Path) -> None:
    flags: dict[str, object] = {"name_or_path": "m", "arch": "sdxl", "is_v_pred": True, "is_xl": True, "is_v2": False}
    off: dict[str, object] = {"type": "ui_trainer", "model": flags, "adapter": {"type": "ip", "train": False}}
    assert written(ai_toolkit([], **off), tmp_path / "ai.json")[0]["model"]["source"] == "m"
    for number, kind in enumerate(("STABLE_DIFFUSION_XL_10_BASE", "FLUX_DEV_1")):
        written(one_trainer({"path": "a"}, model_type=kind), tmp_path / f"{number}.json")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.yaml", "compute_environment: A\ndistributed_type: NO\n", "a config of accelerate. Use: accelerate launch"),
        (
            "x.yaml",
            "model: {source: m}\ndata: {folder: a}\nlora: {rank: 4}\n",
            "a config of this program. Use: python -m recipes.lora",
        ),
        ("x.ipynb", '{"cells": [], "nbformat": 4}', "a notebook. Give its command: finetune import"),
        ("x.json", '{"ss_network_dim": "4", "ss_network_module": "a"}', "the metadata of a LoRA file"),
        (
            "x.toml",
            '[general]\nresolution = 512\ncaption_extension = ".txt"\n[[datasets]]\nimage_directory = "a"\n',
            "nothing of it is an option of sd-scripts",
        ),
        ("x.safetensors", "", "has weights, expected a config file"),
    ],
)
def test_files_that_are_no_config_of_a_trainer_are_named(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as caught:
        import_config(tmp_path / name, [], tmp_path / "new.yaml", print)
    assert words in str(caught.value)


EASY = """
[[subsets]]
image_dir = "a"
num_repeats = 3
[general_args.args]
pretrained_model_name_or_path = "m"
max_train_epochs = 5
[general_args.dataset_args]
resolution = 1024
batch_size = 2
[network_args.args]
network_dim = 32
network_alpha = 16.0
[network_args.args.network_args]
conv_dim = 8
[optimizer_args.args]
optimizer_type = "Prodigy"
[optimizer_args.args.optimizer_args]
weight_decay = 0.1
[noise_args]
"""


def test_hyphens_in_options_are_underscores(tmp_path: Path) -> None:
    words = "train_network.py --network-dim 8 --train-batch-size=2 --mixed-precision fp16"
    config, text = command(words, tmp_path / "hyphens")
    assert config["lora"]["rank"] == 8 and config["train"]["batch_size"] == 2
    assert "--mixed_precision fp16" in text


def test_easy_training_scripts_is_read_as_sd_scripts(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(EASY)
    imported(tmp_path / "x.toml", tmp_path / "x.yaml")
    config = yaml.safe_load((tmp_path / "x.yaml").read_text())
    assert config["data"]["folder"] == "a" and config["data"]["resolution"] == 1024
    assert config["lora"] == {"rank": 32, "alpha": 16.0, "conv": True}
    assert config["optim"]["name"] == "prodigy" and config["optim"]["weight_decay"] == 0.1
    assert config["train"]["epochs"] == 15 and config["train"]["batch_size"] == 2


def test_an_embedding_alone_is_textual_inversion(tmp_path: Path) -> None:
    theirs = ai_toolkit([], network=None, embedding={"trigger": "<zz>", "init_words": "cat"}, train={"lr": 0.01})
    config, text = written(theirs, tmp_path / "ai.json")
    assert config["tokens"] == {"names": ["<zz>"], "num_vectors": 4, "init": ["cat"], "lr": 0.01}
    assert "for recipes.textual_inversion" in text


def test_simple_tuner_trains_all_weights_where_nothing_says_lora(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text('{"model_family": "sdxl", "data_backend_config": "b.json", "lr_end": 0}')
    said: list[str] = []
    import_config(tmp_path / "theirs.json", [], tmp_path / "new.yaml", said.append)
    assert "-m recipes.full" in said[-1]
