"""Prompts of previews. They are encoded while the text encoders are loaded, and kept in host memory."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]

from finetune.config.loss import LossConfig
from finetune.config.outputs import PreviewConfig
from finetune.models.family import Components, ModelFamily
from finetune.models.prompts import Condition, Tokens
from finetune.models.samplers import with_sampler
from finetune.processes.ranks import ranks

DrawingPrompts = dict[str, Condition]
"""By prompt with its options: what the denoiser is conditioned on, the negative prompt as a second row; or its tokens,
where text encoders that train encode them with their weights of the moment."""


def own_share(config: PreviewConfig) -> Sequence[str]:
    """List the prompt of each preview of this process. The order is prompts, then seeds."""
    prompts = [line for line in config.prompts for _ in range(config.num_seeds)]
    return ranks().share(prompts)


@torch.no_grad()
def kept_prompt(
    family: ModelFamily,
    components: Components,
    prompt: str,
    negative_prompt: str,
    accelerator: Accelerator,
    *,
    text_encoder_is_trained: bool,
) -> Condition:
    """Encode a prompt to keep. Text encoders that never train encode their part, others none."""
    encode = family.encode_frozen if text_encoder_is_trained else family.encode_prompts
    tokens = family.pipeline_tokens(components.tokenizers, prompt, negative_prompt)
    with accelerator.autocast():
        kept = encode(components.text_encoders, tokens.to(accelerator.device))
    return kept.to(torch.device("cpu"))


def kept_prompts(
    family: ModelFamily,
    components: Components,
    config: PreviewConfig,
    accelerator: Accelerator,
    *,
    text_encoder_is_trained: bool,
) -> DrawingPrompts:
    """Encode the prompts of this process's previews. Its text encoders are on the device."""
    read = dict(zip(config.prompts, config.read_prompts(0), strict=True))
    return {
        line: kept_prompt(
            family,
            components,
            read[line].prompt,
            read[line].negative_prompt or "",
            accelerator,
            text_encoder_is_trained=text_encoder_is_trained,
        )
        for line in dict.fromkeys(own_share(config))
    }


def refuse_unfit_previews(
    family: ModelFamily, components: Components, config: PreviewConfig, resolution: int, loss: LossConfig
) -> None:
    """Raise ValueError for sizes and samplers that do not fit the model."""
    multiple, longest = family.pixel_multiple(components.vae), family.longest_side(components)
    found: list[str] = []
    for line, options in zip(config.prompts, config.read_prompts(resolution), strict=True):
        for name in ("width", "height"):
            side = vars(options)[name]
            if side % multiple or (longest is not None and side > longest):
                most = "" if longest is None else f", at most {longest}"
                found.append(
                    f'"{line[:80]}": {name} is {side}, expected a multiple of {multiple} for this model{most}.'
                )
        if options.negative_prompt and not family.knows_negative_prompts:
            found.append(f'"{line[:80]}": has a negative prompt, but {family.title} is guided without. Remove it.')
        try:
            with_sampler(family, family.sampling_scheduler(components.scheduler, loss), options.sampler)
        except ValueError as error:
            found.append(f'"{line[:80]}": {error}')
    if found:
        raise ValueError("\n".join(f"preview.prompts: {text}" for text in found))


def drawing_arguments(
    family: ModelFamily, components: Components, kept: Condition, device: torch.device
) -> dict[str, Any]:
    """Give the pipeline's arguments for a kept prompt. Text encoders that train encode it now."""
    prompts = kept.to(device)
    if isinstance(prompts, Tokens):
        prompts = family.encode_prompts(components.text_encoders, prompts)
    return family.pipeline_arguments(components, prompts)
