from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.models import FAMILIES
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.prompts import join_prompts
from tests.contract.calls import HEIGHT, WIDTH, denoiser_calls, drawn, own_call, packed, prompts_of
from tests.support.families import VARIANTS

pytestmark = pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS], scope="session")
SHORT = ("a red circle on white paper", "Ein ROTER  Kreis, 12 (x) – é", "a " * 75)
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
    for call in calls:
        ours = own_call(family, components, prompts, call)
        assert torch.equal(ours.embeddings, call.embeddings)
        assert (ours.pooled is None) == (call.pooled is None)
        assert ours.pooled is None or call.pooled is None or torch.equal(ours.pooled, call.pooled)
        torch.testing.assert_close(ours.output, call.output, rtol=0, atol=1e-5)
    assert not torch.equal(calls[0].noisy, calls[-1].noisy)


def test_the_empty_caption_is_what_guidance_leads_away_from(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    """The empty caption is the first prompt of the pipeline. A pipeline with distilled guidance has no other."""
    denoiser = denoiser_of(pipeline, components)
    call = denoiser_calls(pipeline, denoiser, "", steps=1, guidance_scale=4.0)[0]
    ours = own_call(family, components, prompts_of(family, components, ""), replace(call, noisy=call.noisy[:1]))
    assert torch.equal(ours.embeddings, call.embeddings[:1])
    assert ours.pooled is None or call.pooled is None or torch.equal(ours.pooled, call.pooled[:1])


@pytest.mark.parametrize("stacked", [False, True], ids=["encoded together", "cached rows"])
@torch.no_grad()
def test_each_sample_of_a_batch_has_the_prediction_that_it_has_alone(
    stacked: bool, family: ModelFamily, components: Components, pipeline: Any
) -> None:
    network = Network(family, components.denoiser)
    call = denoiser_calls(pipeline, denoiser_of(pipeline, components), SHORT[0])[0]
    captions, t = (SHORT[0], WORDS * 6, ""), torch.tensor([3, 500, 990])
    noisy = call.noisy * torch.tensor([1.0, 0.5, -1.0]).view(3, 1, 1, 1)
    prompts = prompts_of(family, components, *captions)
    if stacked:
        prompts = join_prompts([prompts_of(family, components, caption) for caption in captions])
    together = network(noisy, t, prompts)
    for number, caption in enumerate(captions):
        one = slice(number, number + 1)
        alone = network(noisy[one], t[one], prompts_of(family, components, caption))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_trained_text_encoders_inside_the_network_give_the_same_prediction(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    call = denoiser_calls(pipeline, denoiser_of(pipeline, components), SHORT[0])[0]
    noisy, t, captions = call.noisy.repeat(2, 1, 1, 1), torch.tensor([10, 900]), (SHORT[0], WORDS * 6)
    prompts = prompts_of(family, components, *captions)
    network = Network(family, components.denoiser, family.trained_text_encoders(components.text_encoders))
    tokens = family.encode_frozen(components.text_encoders, family.tokenize(components.tokenizers, captions))
    inside = network(noisy, t, replace(tokens, sizes=prompts.sizes))
    assert torch.equal(inside, Network(family, components.denoiser)(noisy, t, prompts))


def test_long_prompts_begin_with_what_the_pipeline_reads_of_them(
    family: ModelFamily, components: Components, pipeline: Any
) -> None:
    call = denoiser_calls(pipeline, denoiser_of(pipeline, components), WORDS * 40, steps=1)[0]
    ours = own_call(family, components, prompts_of(family, components, WORDS * 40), call)
    assert ours.embeddings.shape[1] >= call.embeddings.shape[1]
    read = ours.embeddings[:, : call.embeddings.shape[1]]
    torch.testing.assert_close(read, call.embeddings, rtol=0, atol=1e-5)  # several chunks are encoded at once
    torch.testing.assert_close(ours.pooled, call.pooled, rtol=0, atol=1e-5)


def test_captions_are_called_cut_where_their_end_changes_nothing(family: ModelFamily, components: Components) -> None:
    texts = {number: WORDS * number for number in (1, 5, 10, 40)}
    for text in texts.values():
        one, other = (prompts_of(family, components, f"{text} {end}").entry() for end in ("circle", "triangle"))
        is_cut = all(same(one[key], other[key]) for key in one)
        found = family.cut_captions(components.tokenizers, ["a red cross", f"{text} circle", ""])
        assert found == ([f"{text} circle"] if is_cut else [])


@torch.no_grad()
def test_previews_draw_what_the_pipeline_draws(family: ModelFamily, components: Components, pipeline: Any) -> None:
    """Short prompts are read whole. Guidance leads away from the empty prompt or another."""
    settings: dict[str, Any] = {"num_inference_steps": 2, "height": HEIGHT, "width": WIDTH, "output_type": "pt"}
    settings["guidance_scale"] = 4.0
    for negative in ("", "blurry") if family.knows_negative_prompts else ("",):
        prompts = family.pipeline_prompts(components, SHORT[0], negative)
        ours = family.pipeline(components)(**prompts, generator=torch.Generator().manual_seed(3), **settings)
        own = {"negative_prompt": negative} if negative else {}
        theirs = pipeline(SHORT[0], **own, generator=torch.Generator().manual_seed(3), **settings)
        torch.testing.assert_close(ours.images, theirs.images, rtol=0, atol=1e-5)


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def denoiser_of(pipeline: Any, components: Components) -> Any:
    (denoiser,) = (part for part in pipeline.components.values() if type(part) is type(components.denoiser))
    return denoiser
