"""Metadata of a LoRA file: ModelSpec 1.0.1, sd-scripts' `ss_*`, and hashes.

ModelSpec: https://github.com/Stability-AI/ModelSpec. The `ss_*` names are those that A1111, Forge and sd-scripts read.
Files are looked up by their hashes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.config.train import TrainConfig
from finetune.data.folders import FolderCount

MAX_TAGS = 1000
"""Most frequent tags that are written; captions in sentences would otherwise repeat the dataset in every file."""


@dataclass(frozen=True)
class RunFacts:
    """Figures of a finished run for the metadata of its files."""

    base_sha256: str
    """`fingerprint` of the base denoiser, before adapters were attached; no other program computes it."""
    steps: int
    epochs: int
    """Passes over the images that were started."""
    global_batch_size: int
    num_train_images: int
    """Images of the dataset, without held-out ones."""
    num_reg_images: int
    """Class images of DreamBooth."""
    image_repeats: Mapping[int, int]
    """Number of images by how often each appears in a pass."""
    reg_image_repeats: Mapping[int, int]
    dataset_location: str
    """Folder or Hub id; only its last part is written."""
    dataset_fingerprint: str
    tags: Mapping[str, int]
    """`tag_counts` of the captions."""
    mixed_precision: Literal["no", "fp16", "bf16"]
    started_at: float
    """Seconds since 1970 (UTC), like `finished_at`."""
    finished_at: float
    usage_hint: str | None = None
    """Strengths to use the file at, as they were scored."""
    folders: Sequence[FolderCount] = ()
    """The parts of several folders; empty for one."""


def lora_metadata(
    config: TrainConfig, facts: RunFacts, loss: LossConfig, network: Mapping[str, object], model: Mapping[str, str]
) -> dict[str, str]:
    """Return the metadata of a LoRA file, without hashes of tensors. `with_hashes` adds those. `loss` are the options
    of the objective, `network` the `ss_network_*` fields, `model` those of `ModelFamily.model_spec`."""
    name, resolution, optim, train = config.output.export_name, config.data.resolution, config.optim, config.train
    dataset, quantization = last_part(facts.dataset_location), config.model.quantization
    own_folders, class_folders = several_folders(facts.folders)
    class_folders = class_folders or dataset_folders("class", facts.reg_image_repeats)
    of_class = {"ss_reg_dataset_dirs": json.dumps(class_folders)}
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.date": datetime.fromtimestamp(int(facts.finished_at), UTC).isoformat(),
        "modelspec.resolution": f"{resolution}x{resolution}",
        **({} if facts.usage_hint is None else {"modelspec.usage_hint": facts.usage_hint}),
        **network,
        "ss_output_name": name,
        "ss_sd_model_name": last_part(config.model.source),
        "ss_base_weights_sha256": facts.base_sha256,  # ss_sd_model_hash is that of a file, which a folder is not
        **({} if quantization == "none" else {"ss_base_weights_quantization": quantization}),
        "ss_num_train_images": facts.num_train_images,
        "ss_num_reg_images": facts.num_reg_images,
        "ss_total_batch_size": facts.global_batch_size,
        "ss_batch_size_per_device": train.batch_size,
        "ss_gradient_accumulation_steps": train.accumulation,
        "ss_gradient_checkpointing": train.gradient_checkpointing,
        "ss_steps": facts.steps,
        "ss_max_train_steps": facts.steps,
        "ss_epoch": facts.epochs,
        "ss_num_epochs": facts.epochs,
        "ss_seed": config.seed,
        "ss_dataset_dirs": json.dumps(own_folders or dataset_folders(dataset, facts.image_repeats)),
        **(of_class if facts.num_reg_images else {}),
        "ss_dataset_fingerprint": facts.dataset_fingerprint,
        "ss_tag_frequency": json.dumps({dataset: dict(facts.tags)}),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_caption_dropout_rate": config.data.caption_dropout,
        "ss_flip_aug": config.data.flip,
        "ss_cache_latents": config.cache.latents,
        "ss_learning_rate": optim.lr,
        "ss_unet_lr": optim.lr,
        "ss_text_encoder_lr": (optim.text_encoder_lr or optim.lr) if train.text_encoder else None,
        "ss_lr_scheduler": optim.schedule,
        "ss_lr_warmup_steps": optim.warmup_steps,
        "ss_optimizer": optim.name,
        "ss_max_grad_norm": train.max_grad_norm,
        "ss_mixed_precision": facts.mixed_precision,
        "ss_zero_terminal_snr": loss.zero_terminal_snr,
        **timestep_fields(loss),
        **loss_fields(loss),
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": facts.finished_at,
    }
    return {key: str(value) for key, value in fields.items()} | dict(model)


def dataset_folders(name: str, repeats: Mapping[int, int]) -> dict[str, dict[str, int]]:
    """Return folders as sd-scripts names them, one per number of repeats."""
    return {
        name if len(repeats) == 1 else f"{times}_{name}": {"n_repeats": times, "img_count": num}
        for times, num in sorted(repeats.items())
    }


def several_folders(counts: Sequence[FolderCount]) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Return listed folders as sd-scripts names them, those of class images apart."""
    found: tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]] = {}, {}
    for each in counts:
        repeats = round(each.num_samples / max(1, each.num_images))
        found[each.is_class][each.label] = {"n_repeats": repeats, "img_count": each.num_images}
    return found


def loss_fields(loss: LossConfig) -> dict[str, object]:
    """Return the fields of loss and noise. An option that is off is None, as sd-scripts writes it."""
    huber = loss.error == "huber"
    return {
        "ss_min_snr_gamma": loss.snr_gamma if loss.weighting == "min_snr" else None,
        "ss_debiased_estimation": loss.weighting == "debiased",
        "ss_loss_type": "huber" if huber else "l2",
        "ss_huber_c": loss.huber_c if huber else None,
        "ss_huber_schedule": loss.huber_schedule if huber else None,
        "ss_noise_offset": loss.offset_noise or None,
        "ss_multires_noise_discount": loss.pyramid_noise or None,
        "ss_ip_noise_gamma": loss.input_perturbation or None,
    }


def timestep_fields(loss: LossConfig) -> dict[str, object]:
    """Return the range of trained timesteps, unless it is all."""
    if loss.min_timestep is None and loss.max_timestep is None:
        return {}
    return {"ss_min_timestep": loss.min_timestep, "ss_max_timestep": loss.max_timestep}


def with_hashes(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Add the hashes of a safetensors file with `tensors` to the metadata.

    `sshs_model_hash` (and `modelspec.hash_sha256`) is the SHA-256 of all bytes after the header, which A1111 and Forge
    compute and model sites search for; it does not depend on the metadata. `sshs_legacy_hash` covers 64 KiB from 1 MiB
    into the file as it would be with only the `ss_*` fields, since the others may be edited later.
    """
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    data = memoryview(safetensors.torch.save(dict(tensors), training))
    header_bytes = int.from_bytes(data[:8], "little")
    model_hash = hashlib.sha256(data[8 + header_bytes :]).hexdigest()
    legacy_hash = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return dict(metadata) | {
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash,
        "modelspec.hash_sha256": f"0x{model_hash}",
    }


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """Count the comma-separated parts of the captions, in lower case. Only the MAX_TAGS most frequent are returned."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common(MAX_TAGS))


def last_part(location: str) -> str:
    """Return the last part of a folder or id. Names of other folders are not published."""
    name = location.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return Path(location).resolve().name if name in ("", ".", "..") else name
