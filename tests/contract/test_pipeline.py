"""Latents, prompts and predictions in training equal those of diffusers' pipeline."""

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.models.family import Components, ModelFamily, Network
from tests.contract.calls import HEIGHT, WIDTH, denoiser_calls, drawn, packed, prompts_of

SHORT = ("a red circle on white paper", "Ein ROTER  Kreis, 12 (x) – é")
WORDS = "a red circle, a green cross, a blue square, a black triangle on grey paper; "


@torch.no_grad()
def test_latents_in_training_are_what_the_pipeline_decodes(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    """The pipeline decodes our latents in place of its own."""
    pixels = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours = family.encode_images(components.vae, pixels, [torch.Generator().manual_seed(2)])
    shown = drawn(
        pipeline,
        "",
        output_type="pt",
        callback_on_step_end=lambda pipe, number, t, now: {"latents": packed(pipe, ours, now["latents"])},
    )
    raw = components.vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(2))
    expected = (components.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-5)
    factor = family.pixels_per_latent(components.vae)
    assert ours.shape[2:] == (HEIGHT // factor, WIDTH // factor)
    assert family.pixel_multiple(components.vae) % factor == 0


@pytest.mark.parametrize("prompt", SHORT)
def test_prompts_and_predictions_are_the_pipelines_own(
    family: ModelFamily, components: Components, pipeline: Any, prompt: str
) -> None:
    calls = denoiser_calls(pipeline, denoiser_of(pipeline, components), prompt)
    prompts = prompts_of(family, components, prompt)
    network = Network(family, components.denoiser)
    for call in calls:
        assert torch.equal(prompts["embeddings"], call.embeddings)
        assert ("pooled" in prompts) == (call.pooled is not None)
        assert call.pooled is None or torch.equal(prompts["pooled"], call.pooled)
        with torch.no_grad():
            ours = network(call.noisy, call.t.expand(1), prompts)
        torch.testing.assert_close(ours, call.output, rtol=0, atol=1e-5)
    assert not torch.equal(calls[0].noisy, calls[-1].noisy)


def test_the_empty_caption_is_what_guidance_leads_away_from(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    """The empty caption is the first prompt of the pipeline. A pipeline with distilled guidance has no other."""
    denoiser = denoiser_of(pipeline, components)
    call = denoiser_calls(pipeline, denoiser, "", steps=1, guidance_scale=4.0)[0]
    ours = prompts_of(family, components, "")
    assert torch.equal(ours["embeddings"], call.embeddings[:1])
    assert call.pooled is None or torch.equal(ours["pooled"], call.pooled[:1])


@torch.no_grad()
def test_each_sample_of_a_batch_has_the_prediction_that_it_has_alone(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    network = Network(family, components.denoiser)
    call = denoiser_calls(pipeline, denoiser_of(pipeline, components), SHORT[0])[0]
    captions, t = (SHORT[0], WORDS * 6, ""), torch.tensor([3, 500, 990])
    noisy = call.noisy * torch.tensor([1.0, 0.5, -1.0]).view(3, 1, 1, 1)
    together = network(noisy, t, prompts_of(family, components, *captions))
    for number, caption in enumerate(captions):
        one = slice(number, number + 1)
        alone = network(noisy[one], t[one], prompts_of(family, components, caption))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


def test_long_prompts_begin_with_what_the_pipeline_reads_of_them(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    call = denoiser_calls(pipeline, denoiser_of(pipeline, components), WORDS * 40, steps=1)[0]
    ours = prompts_of(family, components, WORDS * 40)
    assert ours["embeddings"].shape[1] >= call.embeddings.shape[1]
    read = ours["embeddings"][:, : call.embeddings.shape[1]]
    torch.testing.assert_close(read, call.embeddings, rtol=0, atol=1e-5)  # several chunks are encoded at once
    if call.pooled is not None:
        torch.testing.assert_close(ours["pooled"], call.pooled, rtol=0, atol=1e-5)


def test_captions_are_called_cut_where_their_end_changes_nothing(family: ModelFamily, components: Components) -> None:
    texts = {number: WORDS * number for number in (1, 5, 10, 40)}
    for text in texts.values():
        one, other = (prompts_of(family, components, f"{text} {end}") for end in ("circle", "triangle"))
        is_cut = all(same(one[key], other[key]) for key in one)
        found = family.cut_captions(components.tokenizers, ["a red cross", f"{text} circle", ""])
        assert found == ([f"{text} circle"] if is_cut else [])


@torch.no_grad()
def test_previews_draw_what_the_pipeline_draws(family: ModelFamily, components: Components, pipeline: Any) -> None:
    """Prompts are short, so the pipeline reads them whole."""
    settings: dict[str, Any] = {"num_inference_steps": 2, "height": HEIGHT, "width": WIDTH, "output_type": "pt"}
    settings["guidance_scale"] = 4.0
    prompts = family.pipeline_prompts(components, SHORT[0], "")
    ours = family.pipeline(components)(**prompts, generator=torch.Generator().manual_seed(3), **settings)
    theirs = pipeline(SHORT[0], generator=torch.Generator().manual_seed(3), **settings)
    torch.testing.assert_close(ours.images, theirs.images, rtol=0, atol=1e-5)


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def denoiser_of(pipeline: Any, components: Components) -> Any:
    """The pipeline's denoiser: its part of the class that the family loads."""
    (denoiser,) = (part for part in pipeline.components.values() if type(part) is type(components.denoiser))
    return denoiser
