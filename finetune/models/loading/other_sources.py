"""Recognise files and folders that are not a whole model, with advice."""

from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
ADAPTER_WORDS = (".lora_", "_lora.", ".hada_w", ".lokr_w", ".oft_blocks", ".dora_scale")
"""What the names of an adapter's weights contain, in all of its layouts."""
SCALES = ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale")
"""How keys end that hold the scales of weights in 8 bits."""
OWN_STARTS = ("denoiser.", "text_encoders.")
"""How the names in a run's own checkpoints begin."""
DENOISER_STARTS = (
    *("model.diffusion_model.", "double_blocks.", "single_blocks.", "joint_blocks.", "diffusion_model."),
    *("transformer_blocks.", "single_transformer_blocks.", "down_blocks.", "input_blocks."),
)
TEXT_STARTS = (
    *("text_model.", "transformer.text_model.", "transformer.resblocks.", "embeddings.token_embedding."),
    *("encoder.block.", "shared.weight"),
    *("cond_stage_model.", "conditioner.", "text_encoders."),
)
VAE_STARTS = ("first_stage_model.", "vae.", "encoder.conv_in.", "decoder.conv_in.", "encoder.down")
VECTORS = ({"emb_params"}, {"clip_l", "clip_g"}, {"string_to_param"})
"""Keys of files with new tokens."""
SHOWN = 3
"""How many names a message lists."""


def refuse_scaled(keys: Iterable[str], name: str) -> None:
    """Raise ValueError for weights in 8 bits with scales in separate keys. No model here applies them."""
    scaled = next((key for key in keys if key.endswith(SCALES)), None)
    if scaled is not None:
        raise ValueError(
            f"model.source: the single file {name} holds weights in 8 bits (fp8) with scales ({scaled}), made for "
            "drawing alone. Use the same model in fp16, bf16 or fp32; --model.quantization fp8 saves the same memory."
        )


def refuse_quantised(config_file: Path, location: str) -> None:
    """Raise ValueError for weights quantised by bitsandbytes or another library."""
    if config_file.is_file() and '"quantization_config"' in config_file.read_text(encoding="utf-8"):
        raise ValueError(
            f"model.source: {config_file.parent.name} of {location} is stored quantised (quantization_config in its "
            "config.json), made for drawing alone. Use the original model; --model.quantization saves the memory here."
        )


def file_contents(keys: Collection[str]) -> str:
    """Describe a single file without some of a model's parts, with advice."""
    if any(word in key for key in keys for word in ADAPTER_WORDS):
        return (
            "It looks like an adapter (LoRA). Use the base model that it is for; a run starts from a base model, or "
            "continues its own checkpoints."
        )
    if any(set(keys) >= known for known in VECTORS):
        return "It has the vectors of a new token (textual inversion). Use the base model that it is for."
    if any(key.startswith(OWN_STARTS) for key in keys):
        return "It looks like the weights in a run's checkpoint. Use the base model, and the checkpoint to --resume."
    if any(key.startswith(("control_model.", "controlnet_", "ip_adapter.")) for key in keys):
        return "It looks like a ControlNet or an IP-Adapter. Use the base model that it is for."
    found = [
        (what, advice)
        for what, advice, starts in (
            ("denoiser (U-Net or transformer)", DENOISER_ADVICE, DENOISER_STARTS),
            ("text encoder", "Use a file or folder with all parts of the base model.", TEXT_STARTS),
            ("VAE", "Use the base model, and this file with --model.vae.", VAE_STARTS),
        )
        if any(key.startswith(starts) for key in keys)
    ]
    if len(found) == 1:
        what, advice = found[0]
        return f"It has a {what} alone. {advice}"
    return "It is not a whole model. Use the file or folder of the base model with all of its parts."


DENOISER_ADVICE = (
    "Use the whole model: a Hub id or folder. Where this file is a fine-tuned one, make a folder of its base model "
    "and replace its denoiser (diffusers: CLASS.from_single_file(FILE).save_pretrained(FOLDER/transformer))."
)


def folder_contents(names: Collection[str], location: str, *, is_local: bool) -> str:
    """Describe a folder without model_index.json by its files' names, with advice. Empty for unknown ones."""
    root = {name for name in names if "/" not in name}
    safe = sorted(name for name in root if name.endswith(".safetensors"))
    below = sorted(str(PurePosixPath(name).parent) for name in names if name.endswith("/model_index.json"))
    if below:
        return f" Use a folder inside it: {first(str(PurePosixPath(location, name)) for name in below)}."
    if {"manifest.json", "trained.safetensors"} <= root:
        return " It is a run's checkpoint. Use the base model here, and this folder to --resume."
    if "config.yaml" in root and any(name.startswith(("checkpoints/", "export/")) for name in names):
        return " It is a run's folder with an adapter. Use the base model here; the same command continues the run."
    if "adapter_config.json" in root or "pytorch_lora_weights.safetensors" in root:
        return " It contains an adapter (LoRA). Use the base model that it is for."
    if "config.json" in root:
        above = f": {Path(location).resolve().parent}" if is_local else ""
        return f" It contains one part of a model alone. Use the folder of the whole model{above}."
    if safe:
        way = first(str(Path(location, name)) for name in safe)
        if not is_local:
            way = f"{first(safe)}, after `hf download {location} {safe[0]} --local-dir .`"
        return f" It contains single files. Use one of them: {way}."
    if any(name.endswith(".gguf") for name in root):
        return " It contains GGUF files, quantised for drawing alone. Use the original model."
    if any(name.endswith(PICKLES) for name in root):
        return " It contains pickles, which can run code when they are read. Use safetensors."
    if any(name.lower().endswith(IMAGES) for name in names):
        return " It contains images, which belong into --data.folder."
    return ""


def first(names: Iterable[str]) -> str:
    """List a few names, and count the others."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
