"""Options of diffusers' scripts and sd-scripts, and ours for them."""

from collections.abc import Container

THEIR_NAMES = {
    "cache.latents": "cache_latents",
    "cache.text": "cache_text_encoder_outputs",
    "checkpoint.every": "checkpointing_steps save_every_n_epochs save_every_n_steps",
    "checkpoint.keep": "checkpoints_total_limit",
    "data.bucket_step": "bucket_reso_steps",
    "data.caption_column": "caption_column",
    "data.caption_dropout": "caption_dropout_rate",
    "data.crop": "center_crop",
    "data.flip": "flip_aug random_flip",
    "data.folder": "dataset_name instance_data_dir train_data_dir",
    "data.image_column": "image_column",
    "data.keep_tags": "keep_tokens",
    "data.num_workers": "dataloader_num_workers max_data_loader_n_workers",
    "data.shuffle_tags": "shuffle_caption",
    "instance.prompt": "instance_prompt",
    "lora.alpha": "network_alpha",
    "lora.dropout": "network_dropout",
    "lora.rank": "network_dim",
    "loss.huber_c": "huber_c",
    "loss.max_timestep": "max_timestep",
    "loss.min_timestep": "min_timestep",
    "loss.offset_noise": "noise_offset",
    "loss.prediction_type": "v_parameterization",
    "loss.snr_gamma": "min_snr_gamma snr_gamma",
    "loss.zero_terminal_snr": "zero_terminal_snr",
    "mask.kind": "masked_loss",
    "model.source": "pretrained_model_name_or_path",
    "model.vae": "pretrained_vae_model_name_or_path vae",
    "optim.beta1": "adam_beta1",
    "optim.beta2": "adam_beta2",
    "optim.lr": "learning_rate unet_lr",
    "optim.name": "optimizer_type use_8bit_adam",
    "optim.schedule": "lr_scheduler",
    "optim.text_encoder_lr": "text_encoder_lr",
    "optim.warmup_steps": "lr_warmup_steps",
    "optim.weight_decay": "adam_weight_decay",
    "output.dtype": "save_precision",
    "output.folder": "output_dir",
    "output.name": "output_name",
    "preview.every": "sample_every_n_epochs sample_every_n_steps validation_epochs validation_steps",
    "preview.num_seeds": "num_validation_images",
    "preview.prompts": "sample_prompts validation_prompt",
    "prior.folder": "class_data_dir reg_data_dir",
    "prior.kind": "with_prior_preservation",
    "prior.num_pictures": "num_class_images",
    "prior.prompt": "class_prompt",
    "prior.weight": "prior_loss_weight",
    "resume": "resume_from_checkpoint",
    "tokens.init": "initializer_token",
    "tokens.names": "placeholder_token token_string",
    "tracking.names": "report_to",
    "tracking.project": "tracker_project_name",
    "tracking.run_name": "wandb_run_name",
    "train.accumulation": "gradient_accumulation_steps",
    "train.batch_size": "train_batch_size",
    "train.ema_decay": "ema_decay",
    "train.gradient_checkpointing": "gradient_checkpointing",
    "train.log_every": "logging_steps",
    "train.max_grad_norm": "max_grad_norm",
    "train.steps": "max_train_epochs max_train_steps num_train_epochs",
    "train.text_encoder": "train_text_encoder",
}
"""Our options and what they are called elsewhere; values and units may differ."""
COUNTERPARTS = {name: ours for ours, names in THEIR_NAMES.items() for name in names.split()}

ATTENTION = "Omit it: attention is always torch's scaled_dot_product_attention, which saves the same memory."
ELSEWHERE = {
    "mixed_precision": "Precision is Accelerate's: give --mixed_precision before -m, or set it in its config file.",
    "num_processes": "Processes are Accelerate's: give --num_processes before -m, or set it in its config file.",
    "num_machines": "Machines are Accelerate's: give --num_machines before -m, or set it in its config file.",
    "config_file": "It is an option of accelerate launch: give it before -m. A preset of a recipe is --config.",
    "gpu_ids": "GPUs are Accelerate's: give --gpu_ids before -m, or set it in its config file.",
    "network_module": "The recipe says what is trained: recipes.lora, and --lora.kind for relatives of LoRA.",
    "caption_extension": "Captions are read from NAME.txt or NAME.caption beside the image.",
    "enable_bucket": "Images always go to buckets of their aspect; --data.max_aspect 1 allows square ones only.",
    "max_token_length": "Omit it: captions longer than 77 tokens are encoded in chunks where the model allows it.",
    **dict.fromkeys(("enable_xformers_memory_efficient_attention", "xformers", "sdpa", "mem_eff_attn"), ATTENTION),
    "push_to_hub": "Nothing is uploaded to the Hub; upload OUT/export with: hf upload.",
}
"""Their names for what is not an option here."""


def counterpart(key: str, known: Container[str]) -> str:
    """Return a sentence about an option of another trainer. Empty for other names, and where the recipe lacks it."""
    if key in ELSEWHERE:
        return f" {ELSEWHERE[key]}"
    ours = COUNTERPARTS.get(key)
    return f" It is called {ours} here." if ours is not None and ours in known else ""
