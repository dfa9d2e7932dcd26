"""Parts of diffusers' pipelines as the components of a family."""

import re
from typing import Any

from finetune.models.family import Components


def components_of(pipeline: Any) -> Components:
    """Take the pipeline's own parts, frozen and in evaluation mode."""
    parts = {name: part for name, part in sorted(pipeline.components.items()) if part is not None}
    encoders, tokenizers = (
        tuple(part for name, part in parts.items() if re.fullmatch(rf"{kind}(_\d)?", name))
        for kind in ("text_encoder", "tokenizer")
    )
    denoiser = parts["unet" if "unet" in parts else "transformer"]
    for part in (denoiser, parts["vae"], *encoders):
        part.requires_grad_(False).eval()
    return Components(denoiser, parts["vae"], encoders, tokenizers, parts["scheduler"])
