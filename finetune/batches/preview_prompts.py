"""Prompts that images are drawn with: encoded while the text encoders are there, and kept in host memory."""

from typing import Any

import torch
from accelerate import Accelerator

from finetune.config.outputs import PreviewConfig
from finetune.models.family import Components, ModelFamily, Prompts

DrawingPrompts = dict[str, Prompts]
"""By prompt: what the denoiser is conditioned on, the negative prompt as a second row; or its tokens, where text
encoders that train encode them with their weights of the moment."""


def own_share(config: PreviewConfig, accelerator: Accelerator) -> list[str]:
    """Returns the prompt of each preview that this process draws, in the order of prompts, then seeds."""
    prompts = [prompt for prompt in config.prompts for _ in range(config.num_seeds)]
    return prompts[accelerator.process_index :: accelerator.num_processes]


@torch.no_grad()
def kept_prompt(
    family: ModelFamily,
    components: Components,
    prompt: str,
    negative_prompt: str,
    accelerator: Accelerator,
    *,
    text_encoder_is_trained: bool,
) -> Prompts:
    """Returns what is kept of a prompt; text encoders that never train encode their part, others none."""
    encode = family.encode_frozen if text_encoder_is_trained else family.encode_prompts
    tokens = family.pipeline_tokens(components.tokenizers, prompt, negative_prompt)
    with accelerator.autocast():
        kept = encode(components.text_encoders, {key: value.to(accelerator.device) for key, value in tokens.items()})
    return {key: value.cpu() for key, value in kept.items()}


def kept_prompts(
    family: ModelFamily,
    components: Components,
    config: PreviewConfig,
    accelerator: Accelerator,
    *,
    text_encoder_is_trained: bool,
) -> DrawingPrompts:
    """Returns what is kept of the prompts that this process draws; its text encoders are on the device."""
    return {
        prompt: kept_prompt(
            family,
            components,
            prompt,
            config.negative_prompt,
            accelerator,
            text_encoder_is_trained=text_encoder_is_trained,
        )
        for prompt in dict.fromkeys(own_share(config, accelerator))
    }


def drawing_arguments(
    family: ModelFamily, components: Components, kept: Prompts, device: torch.device
) -> dict[str, Any]:
    """Returns the pipeline's arguments for what was kept of a prompt; text encoders that train encode it now."""
    prompts = {key: value.to(device) for key, value in kept.items()}
    if "tokens" in prompts:
        prompts = family.encode_prompts(components.text_encoders, prompts)
    return family.pipeline_arguments(components, prompts)
