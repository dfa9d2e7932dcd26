"""Options of diffusers' scripts and sd-scripts, by the names that people know, and what they are called here."""

from collections.abc import Container

COUNTERPARTS = {
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_weight_decay": "optim.weight_decay",
    "cache_latents": "cache.latents",
    "cache_text_encoder_outputs": "cache.text",
    "caption_column": "data.caption_column",
    "caption_dropout_rate": "data.caption_dropout",
    "center_crop": "data.crop",
    "checkpointing_steps": "checkpoint.every",
    "checkpoints_total_limit": "checkpoint.keep",
    "class_data_dir": "prior.folder",
    "class_prompt": "prior.prompt",
    "dataset_name": "data.folder",
    "ema_decay": "train.ema_decay",
    "flip_aug": "data.flip",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "huber_c": "loss.huber_c",
    "image_column": "data.image_column",
    "instance_data_dir": "data.folder",
    "instance_prompt": "instance.prompt",
    "keep_tokens": "data.keep_tags",
    "learning_rate": "optim.lr",
    "logging_steps": "train.log_every",
    "lr_scheduler": "optim.schedule",
    "lr_warmup_steps": "optim.warmup_steps",
    "masked_loss": "mask.kind",
    "max_data_loader_n_workers": "data.num_workers",
    "max_grad_norm": "train.max_grad_norm",
    "max_timestep": "loss.max_timestep",
    "max_train_steps": "train.steps",
    "min_snr_gamma": "loss.snr_gamma",
    "min_timestep": "loss.min_timestep",
    "network_alpha": "lora.alpha",
    "network_dim": "lora.rank",
    "network_dropout": "lora.dropout",
    "noise_offset": "loss.offset_noise",
    "num_class_images": "prior.num_pictures",
    "num_train_epochs": "train.steps",
    "num_validation_images": "preview.num_seeds",
    "optimizer_type": "optim.name",
    "output_dir": "output.folder",
    "output_name": "output.name",
    "placeholder_token": "tokens.names",
    "pretrained_model_name_or_path": "model.source",
    "prior_loss_weight": "prior.weight",
    "random_flip": "data.flip",
    "report_to": "tracking.names",
    "resume_from_checkpoint": "resume",
    "sample_every_n_steps": "preview.every",
    "sample_prompts": "preview.prompts",
    "save_every_n_steps": "checkpoint.every",
    "save_precision": "output.dtype",
    "shuffle_caption": "data.shuffle_tags",
    "snr_gamma": "loss.snr_gamma",
    "text_encoder_lr": "optim.text_encoder_lr",
    "tracker_project_name": "tracking.project",
    "train_batch_size": "train.batch_size",
    "train_data_dir": "data.folder",
    "train_text_encoder": "train.text_encoder",
    "unet_lr": "optim.lr",
    "use_8bit_adam": "optim.name",
    "v_parameterization": "loss.prediction_type",
    "validation_prompt": "preview.prompts",
    "validation_steps": "preview.every",
    "wandb_run_name": "tracking.run_name",
    "zero_terminal_snr": "loss.zero_terminal_snr",
}
"""Names of others to our own; the values and units may differ."""

ELSEWHERE = {
    "mixed_precision": "Precision is Accelerate's: give --mixed_precision before -m, or set it in its config file.",
    "num_processes": "Processes are Accelerate's: give --num_processes before -m, or set it in its config file.",
    "num_machines": "Machines are Accelerate's: give --num_machines before -m, or set it in its config file.",
    "config_file": "It is an option of accelerate launch: give it before -m. A preset of a recipe is --config.",
    "gpu_ids": "GPUs are Accelerate's: give --gpu_ids before -m, or set it in its config file.",
    "push_to_hub": "Nothing is uploaded to the Hub; upload OUT/export with: hf upload.",
}
"""Names of others for what is not set by an option of ours."""


def counterpart(key: str, known: Container[str]) -> str:
    """Returns a sentence about an option of another trainer; empty for other names, and where the recipe lacks it."""
    if key in ELSEWHERE:
        return f" {ELSEWHERE[key]}"
    ours = COUNTERPARTS.get(key)
    return f" It is called {ours} here." if ours is not None and ours in known else ""
