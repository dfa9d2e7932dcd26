"""Files that are mistaken for a LoRA."""

import re
from collections.abc import Iterable
from pathlib import Path

from finetune.sampling.adapter_pieces import piece_of

OTHERS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"emb_params|clip_[lg]|t5"), "an embedding of a new word", "finetune generate --embedding takes it."),
    (
        re.compile(r".*\.processor\.\w*lora\d\..*"),
        "in the layout of XLabs",
        "diffusers converts it: load_lora_weights, then save_lora_weights.",
    ),
    (
        re.compile(r".*\.oft_(?:blocks|diag)"),
        "an OFT adapter",
        "Programs such as ComfyUI apply it.",
    ),
    (re.compile(r".*\.[ab][12]\.weight"), "a GLoRA", "Programs such as ComfyUI apply it."),
    (re.compile(r".*\.on_input"), "an IA3 adapter", "Programs such as A1111 apply it."),
    (
        re.compile(r"bundle_emb\..*"),
        "a LoRA bundled with embeddings of new words",
        "Save both in files of their own, in OneTrainer without bundle_additional_embeddings.",
    ),
    (re.compile(r".*\.[wb]_norm"), "an adapter of norms (train_norm of LyCORIS)", "Programs such as ComfyUI apply it."),
    (re.compile(r".*\.set_weight"), "a file of weights to set", "Programs such as ComfyUI apply it."),
    (re.compile(r".*\.?vblora_(?:vector_bank|logits)\w*(?:\.\w+)*"), "a VB-LoRA adapter", "peft applies it."),
    (
        re.compile(r".*\.(?:scale_weight|weight_scale|input_scale|comfy_quant|SCB)"),
        "a file of weights quantized with scales",
        "Use the file in fp16 or bf16.",
    ),
    (re.compile(r"lora_controlnet"), "a ControlNet's LoRA", "ControlNets are not trained here."),
    (
        re.compile(r"(?:ip_adapter|image_proj)\..*"),
        "an IP-Adapter",
        "It needs images as prompts.",
    ),
    (
        re.compile(r"(?:model\.diffusion_model|first_stage_model|double_blocks|input_blocks)\..*"),
        "a whole model",
        "finetune lora extract FILE BASE --output LORA.safetensors makes a LoRA of its difference.",
    ),
    (re.compile(r"(?:encoder|decoder)\.conv_in\..*"), "a VAE", "model.vae takes it."),
    (re.compile(r"(?:control_model|controlnet_blocks)\..*"), "a ControlNet", "ControlNets are not trained here."),
    (re.compile(r"(?:adapter\.)?body\.\d+\.(?:block|resnets).*"), "a T2I adapter", "It needs images as conditions."),
    (
        re.compile(r"body\.\d+\.rdb\d\..*|model\.\d+\.sub\..*"),
        "an upscaler",
        "It enlarges drawn images.",
    ),
    (re.compile(r"hyper\..*|\d+\.\d\.linear\..*"), "a hypernetwork", "Programs such as A1111 apply it."),
    (re.compile(r".*\.vera_lambda_[bd]"), "a VeRA adapter", "peft applies it."),
    (re.compile(r".*\.oft_[rR]\.\w+|.*\.boft_[RsS]"), "an OFT or BOFT adapter of peft", "peft applies it."),
    (re.compile(r"exp_avg.*|optimizer\..*"), "the state of an optimizer", "The LoRA is another file of that folder."),
    (
        re.compile(r"text_model\.encoder\..*|encoder\.block\.\d+\.layer\..*"),
        "a text encoder",
        "It is part of a model in model.source.",
    ),
    (
        re.compile(r"(?:down_blocks|transformer_blocks|joint_blocks)\.\d+\..*(?<!qweight)(?<!lora_up)(?<!lora_down)"),
        "the denoiser of a model",
        "finetune lora extract takes folders of whole models.",
    ),
)
"""The names of tensors that tell, what the file is, and what to do."""
STARTS = (
    (b"<", "it is a web page. Download the file again, logged in where that is needed"),
    (b"version https://git-lfs", "it is a pointer of Git LFS. Fetch the file: git lfs pull"),
    (b"{", "it is JSON, perhaps the answer of a site. Download the file again, logged in where that is needed"),
    (b"PK\x03\x04", "it is a pickle of torch. Save its tensors as safetensors in the program that made it"),
)


def other_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """Recognize a file by its tensors. Return what it is and what to do."""
    listed = list(names)
    for pattern, what, advice in OTHERS:
        if any(map(pattern.fullmatch, listed)):
            return what, advice
    return None


def kind_or_base(names: Iterable[str]) -> str:
    """Describe a file that does not fit, or ask for its base."""
    other = other_kind(name for name in names if piece_of(name) is None)
    return "Is it made for another base model?" if other is None else f"It is {other[0]}. {other[1]}"


def why_unreadable(path: Path, error: Exception) -> str:
    """Say why a file is not safetensors. Its first bytes tell, or the library."""
    if not path.exists():
        return "there is no such file"
    if not path.stat().st_size:
        return "it is empty. Copy or download it again"
    start = path.read_bytes()[:64] if path.stat().st_size < 10**6 else b""
    return next((why for sign, why in STARTS if start.startswith(sign)), str(error))
