"""Inputs and outputs of the denoiser in a family's own pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune.models.family import Components, ModelFamily, Network
from finetune.models.prompts import Prompts, whole_sizes

HEIGHT, WIDTH = 32, 48


@dataclass(frozen=True)
class Call:
    """One call of the denoiser. Latents are [1 C H W], never packed."""

    noisy: Tensor
    t: Tensor
    embeddings: Tensor
    pooled: Tensor | None
    output: Tensor


@contextmanager
def arguments_of(denoiser: torch.nn.Module) -> Iterator[list[tuple[Tensor, dict[str, Any], Tensor]]]:
    """Record latents, named arguments and output of each call."""
    found: list[tuple[Tensor, dict[str, Any], Tensor]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        noisy = args[0] if args else kwargs["hidden_states"]
        found.append((noisy.clone(), kwargs, output[0].clone()))

    handle = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def own_call(family: ModelFamily, components: Components, prompts: Prompts, call: Call) -> Call:
    """Return training's call of the denoiser for one of the pipeline's."""
    with arguments_of(components.denoiser) as found:
        output = Network(family, components.denoiser)(call.noisy, call.t.expand(1), prompts)
    ((_, kwargs, _),) = found
    return Call(call.noisy, call.t, kwargs["encoder_hidden_states"], pooled(kwargs), output)


@torch.no_grad()
def denoiser_calls(
    pipeline: Any, denoiser: torch.nn.Module, prompt: str, *, steps: int = 2, guidance_scale: float = 1.0
) -> list[Call]:
    """Return the calls for an image, by default without guidance. The timesteps are the scheduler's."""
    timesteps: list[Tensor] = []

    def note_timestep(pipeline: Any, number: int, t: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        timesteps.append(torch.as_tensor(t))
        return {}

    with arguments_of(denoiser) as found:
        drawn(pipeline, prompt, steps=steps, guidance_scale=guidance_scale, callback_on_step_end=note_timestep)
    assert len(found) == len(timesteps) >= steps, "one call a step"
    return [
        Call(unpacked(pipeline, noisy), t, kwargs["encoder_hidden_states"], pooled(kwargs), unpacked(pipeline, output))
        for (noisy, kwargs, output), t in zip(found, timesteps, strict=True)
    ]


@torch.no_grad()
def drawn(
    pipeline: Any, prompt: str, *, steps: int = 2, guidance_scale: float = 1.0, output_type: str = "latent", **more: Any
) -> Tensor:
    return pipeline(
        prompt,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(0),
        output_type=output_type,
        **more,
    ).images


def pooled(kwargs: dict[str, Any]) -> Tensor | None:
    """Return the prompt's one vector, under either of diffusers' names."""
    return kwargs.get("pooled_projections", (kwargs.get("added_cond_kwargs") or {}).get("text_embeds"))


def unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    """Unpack latents [B C H W] from rows of patches. The rows are [B L 4C]."""
    if latents.dim() == 4:
        return latents
    return pipeline._unpack_latents(latents, HEIGHT, WIDTH, pipeline.vae_scale_factor)


def packed(pipeline: Any, latents: Tensor, like: Tensor) -> Tensor:
    return latents if like.dim() == 4 else pipeline._pack_latents(latents, *latents.shape)


@torch.no_grad()
def prompts_of(family: ModelFamily, components: Components, *captions: str) -> Prompts:
    """Return the conditions for whole images of the size above."""
    tokens = family.tokenize(components.tokenizers, captions)
    return replace(
        family.encode_prompts(components.text_encoders, tokens), sizes=whole_sizes(len(captions), HEIGHT, WIDTH)
    )
