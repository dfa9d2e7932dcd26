import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch

from finetune.config.loss import LossConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import OutputConfig
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, LoopConfig, ModelConfig
from finetune.export.metadata import RunFacts, lora_metadata, tag_counts, with_hashes

HOME = Path.home()
CONFIG = LoRATrainConfig(
    model=ModelConfig(source=str(HOME / "models" / "stable-diffusion-v1-5")),
    data=DataConfig(folder=str(HOME / "pictures" / "ink"), resolution=512, caption_dropout=0.1),
    output=OutputConfig(folder=HOME / "runs" / "ink", name="ink style"),
    train=LoopConfig(batch_size=2, max_grad_norm=1.0, gradient_checkpointing=True),
    optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=50),
    seed=7,
)
LOSS = LossConfig(weighting="min_snr")
NETWORK = {"ss_network_module": "networks.lora", "ss_network_dim": 16, "ss_network_alpha": 8.0}
MODEL = {
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.prediction_type": "epsilon",
    "ss_base_model_version": "sd_v1",
    "ss_v2": "False",
}
FACTS = RunFacts(
    base_sha256="ab" * 32,
    steps=1200,
    epochs=30,
    global_batch_size=4,
    num_train_images=40,
    num_reg_images=0,
    image_repeats={1: 40},
    reg_image_repeats={},
    dataset_location=str(HOME / "pictures" / "ink") + "/",
    dataset_fingerprint="cd" * 32,
    tags={"ink style": 40, "a fox": 2},
    mixed_precision="bf16",
    started_at=1_700_000_000.25,
    finished_at=1_700_003_600.75,
)


def metadata_of(facts: RunFacts = FACTS, loss: LossConfig = LOSS, config: LoRATrainConfig = CONFIG) -> dict[str, str]:
    return lora_metadata(config, facts, loss, NETWORK, MODEL)


def test_the_fields_that_other_tools_read_say_what_the_run_was() -> None:
    expected = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "ink style",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_output_name": "ink style",
        "ss_sd_model_name": "stable-diffusion-v1-5",
        "ss_base_weights_sha256": "ab" * 32,
        "ss_num_train_images": "40",
        "ss_total_batch_size": "4",
        "ss_batch_size_per_device": "2",
        "ss_gradient_accumulation_steps": "1",
        "ss_gradient_checkpointing": "True",
        "ss_max_grad_norm": "1.0",
        "ss_caption_dropout_rate": "0.1",
        "ss_flip_aug": "False",
        "ss_cache_latents": "True",
        "ss_zero_terminal_snr": "False",
        "ss_steps": "1200",
        "ss_epoch": "30",
        "ss_seed": "7",
        "ss_resolution": "(512, 512)",
        "ss_learning_rate": "0.0001",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_mixed_precision": "bf16",
        "ss_optimizer": "adamw",
        "ss_min_snr_gamma": "5.0",
        "ss_debiased_estimation": "False",
        "ss_loss_type": "l2",
        "ss_huber_c": "None",
        "ss_noise_offset": "None",
        "ss_training_started_at": "1700000000.25",
        "ss_training_finished_at": "1700003600.75",
        "ss_dataset_fingerprint": "cd" * 32,
    }
    metadata = metadata_of()
    assert not {"ss_sd_model_hash", "ss_new_sd_model_hash"} & set(metadata)
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_tag_frequency"]) == {"ink": {"ink style": 40, "a fox": 2}}
    assert json.loads(metadata["ss_dataset_dirs"]) == {"ink": {"n_repeats": 1, "img_count": 40}}
    assert datetime.fromisoformat(metadata["modelspec.date"]) == datetime.fromtimestamp(1_700_003_600, UTC)


def test_loss_and_noise_stand_under_the_names_of_sd_scripts() -> None:
    loss = LossConfig(
        weighting="debiased", error="huber", huber_c=0.2, offset_noise=0.05, pyramid_noise=0.3, input_perturbation=0.1
    )
    expected = {
        "ss_min_snr_gamma": "None",
        "ss_debiased_estimation": "True",
        "ss_loss_type": "huber",
        "ss_huber_c": "0.2",
        "ss_huber_schedule": "snr",
        "ss_noise_offset": "0.05",
        "ss_multires_noise_discount": "0.3",
        "ss_ip_noise_gamma": "0.1",
    }
    metadata = metadata_of(loss=loss)
    assert {key: metadata[key] for key in expected} == expected


def test_all_values_are_texts_without_a_folder_of_the_users_machine() -> None:
    metadata = metadata_of()
    assert all(isinstance(value, str) for value in metadata.values())
    assert not [key for key, value in metadata.items() if str(Path.home()) in value or "/models" in value]


def test_only_the_last_part_of_a_hub_id_or_foreign_path_is_named() -> None:
    for location in ("owner/some-model", "C:\\Users\\me\\some-model", "/srv/some-model/", "some-model"):
        config = replace(CONFIG, model=ModelConfig(source=location))
        assert metadata_of(config=config)["ss_sd_model_name"] == "some-model"


def test_hashes_equal_those_recomputed_from_the_bytes_of_the_file() -> None:
    tensors = {"a.alpha": torch.tensor(2.5), "a.lora_up.weight": torch.randn(700, 700), "a.b": torch.ones(3).half()}
    metadata = with_hashes(metadata_of(), tensors)
    data = safetensors.torch.save(tensors, metadata)
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert len(body) == 700 * 700 * 4 + 4 + 6
    assert metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(body).hexdigest()


def test_the_legacy_hash_is_that_of_the_file_with_its_training_fields_alone() -> None:
    tensors = {"a.lora_up.weight": torch.randn(700, 700)}
    metadata = with_hashes(metadata_of(), tensors)
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    data = safetensors.torch.save(tensors, training)
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(data[2**20 : 2**20 + 2**16]).hexdigest()[:8]
    edited = metadata | {"modelspec.title": "another title"}
    assert with_hashes(edited, tensors)["sshs_legacy_hash"] == metadata["sshs_legacy_hash"]


def test_tags_are_counted_in_lower_case_and_the_rarest_are_left_out() -> None:
    assert tag_counts(["A fox, ink", "ink ,a dog", "", "ink"]) == {"ink": 3, "a fox": 1, "a dog": 1}
    assert len(tag_counts(f"tag {number}" for number in range(5000))) == 1000


def test_class_images_and_repeats_are_told_apart_from_the_images_of_the_dataset() -> None:
    facts = replace(FACTS, num_train_images=3, num_reg_images=5, image_repeats={5: 3}, reg_image_repeats={3: 5})
    found = metadata_of(facts)
    assert (found["ss_num_train_images"], found["ss_num_reg_images"]) == ("3", "5")
    assert json.loads(found["ss_dataset_dirs"]) == {"ink": {"n_repeats": 5, "img_count": 3}}
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"class": {"n_repeats": 3, "img_count": 5}}
    mixed = metadata_of(replace(FACTS, image_repeats={10: 2, 1: 38}))
    folders = {"1_ink": {"n_repeats": 1, "img_count": 38}, "10_ink": {"n_repeats": 10, "img_count": 2}}
    assert json.loads(mixed["ss_dataset_dirs"]) == folders and "ss_reg_dataset_dirs" not in mixed


def test_the_range_of_trained_timesteps_is_told_where_it_is_not_all_of_them() -> None:
    assert not any("timestep" in name for name in metadata_of())
    found = metadata_of(loss=LossConfig(weighting="none", min_timestep=200))
    assert (found["ss_min_timestep"], found["ss_max_timestep"]) == ("200", "None")
