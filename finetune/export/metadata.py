"""Metadata of a LoRA file: ModelSpec 1.0.1, sd-scripts' `ss_*`, and hashes.

ModelSpec: https://github.com/Stability-AI/ModelSpec. The `ss_*` names are those that A1111, Forge and sd-scripts read.
Files are looked up by their hashes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor

from finetune.config.loss import LossConfig

MAX_TAGS = 1000
"""Most frequent tags that are written; captions in whole sentences would otherwise repeat the dataset in every file."""


@dataclass(frozen=True)
class LoRAFacts:
    """Facts of a finished run for the metadata of its LoRA file."""

    name: str
    """Title and file name without ending."""
    model_location: str
    """Folder or Hub id of the base model; only its last part is written."""
    model_spec: Mapping[str, str]
    """What `ModelFamily.model_spec` returns."""
    base_sha256: str
    """`fingerprint` of the base denoiser, before adapters were attached; no other program computes it."""
    rank: int | None
    """None where layers differ."""
    alpha: float | None
    """None where layers differ, or where the kind has none."""
    steps: int
    epochs: int
    """Passes over the images that were begun."""
    seed: int
    num_train_images: int
    """Images of the dataset, without those that are held out."""
    num_reg_images: int
    """Class images of DreamBooth."""
    image_repeats: Mapping[int, int]
    """How many of the dataset's images come up so often in a pass."""
    reg_image_repeats: Mapping[int, int]
    """The same of class images."""
    global_batch_size: int
    """Images per optimizer step, over all processes and accumulation."""
    batch_size: int
    """Images per process and forward pass."""
    accumulation: int
    dataset_location: str
    """Folder or Hub id of the images; only its last part is written."""
    dataset_fingerprint: str
    tags: Mapping[str, int]
    """`tag_counts` of the captions."""
    resolution: int
    caption_dropout: float
    flip: bool
    latents_cached: bool
    lr: float
    text_encoder_lr: float | None
    """None where the text encoder was not trained."""
    mixed_precision: Literal["no", "fp16", "bf16"]
    optimizer: str
    schedule: str
    warmup_steps: int
    max_grad_norm: float
    gradient_checkpointing: bool
    lora_dropout: float
    loss: LossConfig
    started_at: float
    """Seconds since 1970 (UTC)."""
    finished_at: float
    """Seconds since 1970 (UTC)."""
    quantization: str = "none"
    """How the base weights were kept while adapters trained beside them; the file is for the unquantised ones."""
    network_module: str = "networks.lora"
    """The module of sd-scripts or LyCORIS whose layout the file has."""
    network_args: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Arguments of that module beyond rank and alpha."""


def lora_metadata(facts: LoRAFacts) -> dict[str, str]:
    """Return the metadata of a LoRA file without its hashes. `with_hashes` adds those of its tensors."""
    dataset = last_part(facts.dataset_location)
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": facts.name,
        "modelspec.date": datetime.fromtimestamp(int(facts.finished_at), UTC).isoformat(),
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "ss_network_module": facts.network_module,
        "ss_network_dim": "Dynamic" if facts.rank is None else facts.rank,
        "ss_network_alpha": "Dynamic" if facts.alpha is None else facts.alpha,
        "ss_network_dropout": facts.lora_dropout,
        "ss_output_name": facts.name,
        "ss_sd_model_name": last_part(facts.model_location),
        "ss_base_weights_sha256": facts.base_sha256,  # ss_sd_model_hash is that of a file, which a folder is not
        **({} if facts.quantization == "none" else {"ss_base_weights_quantization": facts.quantization}),
        "ss_num_train_images": facts.num_train_images,
        "ss_num_reg_images": facts.num_reg_images,
        "ss_total_batch_size": facts.global_batch_size,
        "ss_batch_size_per_device": facts.batch_size,
        "ss_gradient_accumulation_steps": facts.accumulation,
        "ss_gradient_checkpointing": facts.gradient_checkpointing,
        "ss_steps": facts.steps,
        "ss_max_train_steps": facts.steps,
        "ss_epoch": facts.epochs,
        "ss_num_epochs": facts.epochs,
        "ss_seed": facts.seed,
        "ss_dataset_dirs": json.dumps(dataset_folders(dataset, facts.image_repeats)),
        **(
            {"ss_reg_dataset_dirs": json.dumps(dataset_folders("class", facts.reg_image_repeats))}
            if facts.num_reg_images
            else {}
        ),
        "ss_dataset_fingerprint": facts.dataset_fingerprint,
        "ss_tag_frequency": json.dumps({dataset: dict(facts.tags)}),
        "ss_resolution": f"({facts.resolution}, {facts.resolution})",
        "ss_caption_dropout_rate": facts.caption_dropout,
        "ss_flip_aug": facts.flip,
        "ss_cache_latents": facts.latents_cached,
        "ss_learning_rate": facts.lr,
        "ss_unet_lr": facts.lr,
        "ss_text_encoder_lr": facts.text_encoder_lr,
        "ss_lr_scheduler": facts.schedule,
        "ss_lr_warmup_steps": facts.warmup_steps,
        "ss_optimizer": facts.optimizer,
        "ss_max_grad_norm": facts.max_grad_norm,
        "ss_mixed_precision": facts.mixed_precision,
        "ss_zero_terminal_snr": facts.loss.zero_terminal_snr,
        **timestep_fields(facts.loss),
        **loss_fields(facts.loss),
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": facts.finished_at,
    }
    if facts.network_args:
        fields["ss_network_args"] = json.dumps({key: str(value) for key, value in facts.network_args.items()})
    return {key: str(value) for key, value in fields.items()} | dict(facts.model_spec)


def dataset_folders(name: str, repeats: Mapping[int, int]) -> dict[str, dict[str, int]]:
    """Return folders as sd-scripts names them, one per number of repeats."""
    return {
        name if len(repeats) == 1 else f"{times}_{name}": {"n_repeats": times, "img_count": num}
        for times, num in sorted(repeats.items())
    }


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

    `sshs_model_hash` (and `modelspec.hash_sha256`) is the SHA-256 of all bytes after the header, as A1111 and Forge
    compute it and model sites are searched by it; it does not depend on the metadata. `sshs_legacy_hash` covers 64 KiB
    from 1 MiB into the file as it would be with the `ss_*` fields alone, since the others may be edited later.
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
    """Count the comma-separated parts of the captions, in lower case. The MAX_TAGS most frequent are returned."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common(MAX_TAGS))


def last_part(location: str) -> str:
    """Return the last part of a folder or id. No other folder's name is published."""
    name = location.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return Path(location).resolve().name if name in ("", ".", "..") else name
