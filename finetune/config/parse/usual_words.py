"""Usual words for options, in no trainer's table, with ours; torch-free."""

from collections.abc import Mapping

OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("lr", "optim.learning_rate"), "optim.lr"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "train.batch_size"),
    **dict.fromkeys(("res", "size", "image_size", "resolutions"), "data.resolution"),
    **dict.fromkeys(("r", "dim", "network_rank"), "lora.rank"),
    **dict.fromkeys(("target_modules", "targets", "lora_target_modules"), "lora.targets"),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "iterations"), "train.steps"),
    **dict.fromkeys(("num_epochs", "max_epochs"), "train.epochs"),
    **dict.fromkeys(
        ("data.path", "data.dir", "dataset", "dataset_path", "data_dir", "images", "img_dir"), "data.folder"
    ),
    **dict.fromkeys(("model.path", "model.name", "base_model", "model_path", "model_name", "model_id"), "model.source"),
    **dict.fromkeys(("ckpt", "checkpoint_path", "pretrained_model", "model.checkpoint"), "model.source"),
    **dict.fromkeys(("out", "outdir", "out_dir", "output_path", "save_dir", "output.dir"), "output.folder"),
    **dict.fromkeys(("prompt", "prompts", "sample_prompt"), "preview.prompts"),
    **dict.fromkeys(("sample_every", "sample_steps_interval", "sample_interval"), "preview.every"),
    **dict.fromkeys(("val_split", "validation_ratio", "val_ratio"), "validation.fraction"),
    **dict.fromkeys(("min_snr", "snr"), "loss.snr_gamma"),
    **dict.fromkeys(("zsnr", "ztsnr"), "loss.zero_terminal_snr"),
    **dict.fromkeys(("shuffle", "shuffle_captions"), "data.shuffle_tags"),
    **dict.fromkeys(("train_te", "train_clip", "finetune_te"), "train.text_encoder"),
    **dict.fromkeys(("repeats", "num_repeats"), "data.folders"),
    **dict.fromkeys(("initializer", "init_word", "initializer_word"), "tokens.init"),
    **dict.fromkeys(("cfg", "cfg_scale"), "guidance_scale"),
    **dict.fromkeys(("steps", "sampling_steps"), "num_inference_steps"),
    **dict.fromkeys(("n", "num", "count", "num_images", "num_samples"), "num_seeds"),
    "w": "width",
    "h": "height",
    "o": "output.folder",
}
"""Their words and ours, which mean the same."""
ANSWERS: Mapping[str, str] = {
    **dict.fromkeys(("betas", "optim.betas"), "Give --optim.beta1 and --optim.beta2."),
    **dict.fromkeys(("wandb", "use_wandb"), "Use --tracking.names wandb."),
    "tensorboard": "Use --tracking.names tensorboard.",
    **dict.fromkeys(("fp8", "fp8_base"), "Use --model.quantization fp8."),
    **dict.fromkeys(("load_in_8bit", "int8"), "Use --model.quantization int8."),
    **dict.fromkeys(("load_in_4bit", "nf4", "qlora"), "Use --model.quantization nf4."),
    **dict.fromkeys(("lowvram", "low_vram", "medvram", "cpu_offload"), "Use --model.offload true."),
    **dict.fromkeys(("v_pred", "vpred"), "Use --loss.prediction_type v_prediction."),
    **dict.fromkeys(("ema", "use_ema"), "Use --train.ema_decay 0.999."),
    **dict.fromkeys(("no_flip", "data.no_flip"), "Use --data.flip false."),
    **dict.fromkeys(
        ("bucket", "buckets", "no_bucket"), "Buckets are always on; --data.max_aspect 1 allows squares alone."
    ),
    **dict.fromkeys(
        ("gpus", "num_gpus", "nproc_per_node", "num_devices"),
        "Processes are Accelerate's: give --num_processes before -m.",
    ),
    **dict.fromkeys(("gpu", "gpu_id", "devices", "cuda"), "GPUs are Accelerate's: give --gpu_ids before -m."),
    "cpu": "The device is Accelerate's: give --cpu before -m.",
    **dict.fromkeys(
        ("deepspeed", "fsdp", "accelerate"),
        "It belongs to accelerate launch: give --config_file FILE before -m; finetune accelerate-config names files.",
    ),
    **dict.fromkeys(
        ("c", "cfg", "preset", "yaml", "conf", "config_name", "config_path"), "Use --config FILE, or a preset's name."
    ),
    "m": "The recipe is named before all options: accelerate launch -m RECIPE OPTIONS.",
    **dict.fromkeys(("lora_weight", "lora_scale", "lora_strength"), "Write it behind the file: FILE:0.8."),
    "hf_token": "Log in with: hf auth login.",
    "token": "Log in with: hf auth login. Words to learn are tokens.names.",
    **dict.fromkeys(("offline", "local_files_only"), "Set HF_HUB_OFFLINE=1 before the command."),
    **dict.fromkeys(("dry_run", "plan", "test_run"), "Use: finetune plan, with the same options."),
    **dict.fromkeys(
        ("overwrite", "overwrite_output_dir", "force", "yes"), "Nothing is overwritten; give another --output.folder."
    ),
    **dict.fromkeys(("verbose", "debug", "quiet"), "Omit it: run.log in the run folder has all lines."),
}
"""What to do instead of an option that is not here, or has another form."""


def usual_answer(key: str, known: Mapping[str, object]) -> str:
    """Return a sentence about a usual word, with or without a section. Empty for others."""
    for word in (key.lower(), key.lower().rpartition(".")[2]):
        if OPTIONS.get(word) in known:
            return f" It is called {OPTIONS[word]} here."
        if word in ANSWERS:
            return f" {ANSWERS[word]}"
    return ""
