"""Prompts and predictions equal the pipeline's; long captions lose nothing."""

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, Network, Prompts, stack_prompts
from tests.tiny.sd import build_pipeline

FAMILY = StableDiffusion()
PROMPTS = ("", "a red circle on white paper", "Ein ROTER  Kreis, 12 (x) – é", "a " * 75, "blue cross, " * 18)
LONG = ", ".join(f"a {color} {shape}" for color in ("red", "green", "blue", "yellow") for shape in ("circle", "cross"))


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def pipeline(request: pytest.FixtureRequest) -> StableDiffusionPipeline:
    sd2 = request.param == "sd2"
    return build_pipeline(size="micro", sd2=sd2, prediction_type="v_prediction" if sd2 else "epsilon")


def encoded(pipeline: StableDiffusionPipeline, *captions: str) -> Prompts:
    with torch.no_grad():
        return FAMILY.encode_prompts([pipeline.text_encoder], FAMILY.tokenize([pipeline.tokenizer], captions))


def components_of(pipeline: StableDiffusionPipeline) -> Components:
    return Components(pipeline.unet, pipeline.vae, (pipeline.text_encoder,), (pipeline.tokenizer,), pipeline.scheduler)


def long_prompt(pipeline: StableDiffusionPipeline, num_tokens: int) -> str:
    """A prompt of so many tokens, no two neighbours alike."""
    words = f"{LONG}, ".split(" ")
    text = ""
    while len(ids_of(pipeline, text)) < num_tokens:
        text += words[len(text) % len(words)] + " "
    return text


def ids_of(pipeline: StableDiffusionPipeline, text: str) -> list[int]:
    return pipeline.tokenizer(text, add_special_tokens=False, verbose=False).input_ids


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_of_up_to_75_tokens_is_encoded_as_the_pipeline_does(
    pipeline: StableDiffusionPipeline, prompt: str
) -> None:
    assert len(ids_of(pipeline, prompt)) <= 75
    expected, empty = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, True, negative_prompt="")
    ours = encoded(pipeline, prompt)
    assert ours.keys() == {"embeddings"}
    assert torch.equal(ours["embeddings"], expected)
    assert empty is not None and torch.equal(encoded(pipeline, "")["embeddings"], empty)


def test_the_two_versions_pad_differently() -> None:
    """So the test above would notice the wrong padding."""
    last = [
        FAMILY.tokenize([build_pipeline(size="micro", sd2=sd2).tokenizer], ["a"])["tokens"][0, 0, -1]
        for sd2 in (False, True)
    ]
    assert last[0] != last[1]


def test_a_prompt_of_200_tokens_fills_three_chunks_and_loses_none(pipeline: StableDiffusionPipeline) -> None:
    prompt = long_prompt(pipeline, 200)
    ids = ids_of(pipeline, prompt)
    tokens = FAMILY.tokenize([pipeline.tokenizer], [prompt])
    assert tokens["tokens"].shape == (1, 3, 77) and tokens["chunks"].tolist() == [3]
    tokenizer = pipeline.tokenizer
    found: list[int] = []
    for row in tokens["tokens"][0].tolist():
        assert row[0] == tokenizer.bos_token_id
        length = row.index(tokenizer.eos_token_id)
        found += row[1:length]
        assert set(row[length + 1 :]) <= {tokenizer.pad_token_id}
    assert found == ids


@pytest.mark.parametrize(("num_tokens", "num_chunks"), [(0, 1), (1, 1), (74, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_the_number_of_chunks_is_the_least_that_holds_the_prompt(
    pipeline: StableDiffusionPipeline, num_tokens: int, num_chunks: int
) -> None:
    prompt = "a " * num_tokens
    assert len(ids_of(pipeline, prompt)) == num_tokens
    assert FAMILY.tokenize([pipeline.tokenizer], [prompt])["chunks"].tolist() == [num_chunks]


def test_each_chunk_is_encoded_as_if_it_stood_alone(pipeline: StableDiffusionPipeline) -> None:
    prompt = "a " * 75 + "red " * 75 + "circle " * 20
    whole = encoded(pipeline, prompt)["embeddings"]
    pieces = [encoded(pipeline, piece)["embeddings"] for piece in ("a " * 75, "red " * 75, "circle " * 20)]
    assert whole.shape[1] == 3 * 77
    torch.testing.assert_close(whole, torch.cat(pieces, dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stacked", [False, True], ids=["encoded together", "cached rows"])
def test_in_a_batch_of_mixed_lengths_each_sample_gets_the_prediction_it_has_alone(
    pipeline: StableDiffusionPipeline, stacked: bool
) -> None:
    captions = ["a red circle", long_prompt(pipeline, 200), "", long_prompt(pipeline, 100)]
    noisy = torch.randn(4, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([5, 300, 700, 999])
    network = Network(FAMILY, pipeline.unet)
    if stacked:
        rows = [{name: value[0] for name, value in encoded(pipeline, caption).items()} for caption in captions]
        together = stack_prompts(rows)
    else:
        together = encoded(pipeline, *captions)
    assert together["mask"].sum(1).tolist() == [77, 231, 77, 154]
    with torch.no_grad():
        batch = network(noisy, t, together)
        for number, caption in enumerate(captions):
            one = slice(number, number + 1)
            alone = network(noisy[one], t[one], encoded(pipeline, caption))
            torch.testing.assert_close(batch[one], alone, rtol=0, atol=1e-5)
        unmasked = network(noisy, t, {"embeddings": together["embeddings"]})
    assert (unmasked[0] - batch[0]).abs().max() > 1e-4  # the mask is what makes the difference


def test_a_trained_text_encoder_inside_the_network_gives_the_same_prediction(
    pipeline: StableDiffusionPipeline,
) -> None:
    captions = ["a red circle", long_prompt(pipeline, 100)]
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    network = Network(FAMILY, pipeline.unet, [pipeline.text_encoder])
    with torch.no_grad():
        inside = network(noisy, t, FAMILY.tokenize([pipeline.tokenizer], captions))
        outside = network(noisy, t, encoded(pipeline, *captions))
    assert torch.equal(inside, outside)


class UNetCalls:
    """The inputs and outputs of a pipeline's U-Net, by forward hooks."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._handle = pipeline.unet.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        noisy, t = args
        self.calls.append((noisy.clone(), t, kwargs["encoder_hidden_states"].clone(), output[0].clone()))

    def remove(self) -> None:
        self._handle.remove()


def test_the_prediction_in_training_is_what_the_pipeline_computes(pipeline: StableDiffusionPipeline) -> None:
    prompt = "a blue triangle on pink paper"
    watched = UNetCalls(pipeline)
    pipeline(
        prompt,
        negative_prompt="",
        num_inference_steps=3,
        height=16,
        width=24,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    watched.remove()
    assert len(watched.calls) >= 3
    network = Network(FAMILY, pipeline.unet)
    prompts = encoded(pipeline, "", prompt)  # guidance runs the negative prompt first
    for noisy, t, embeddings, expected in watched.calls:
        assert torch.equal(prompts["embeddings"], embeddings)
        with torch.no_grad():
            torch.testing.assert_close(network(noisy, t.expand(2), prompts), expected, rtol=0, atol=1e-6)


def test_previews_take_prompts_of_any_length_and_equal_the_pipelines_own_for_short_ones(
    pipeline: StableDiffusionPipeline,
) -> None:
    settings: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    ours = FAMILY.pipeline_prompts(components_of(pipeline), "a red circle", "blurry")
    by_embedding: Any = pipeline(**ours, generator=torch.Generator().manual_seed(3), **settings)
    seed = torch.Generator().manual_seed(3)
    by_text: Any = pipeline("a red circle", negative_prompt="blurry", generator=seed, **settings)
    assert (by_embedding.images == by_text.images).all()
    long = FAMILY.pipeline_prompts(components_of(pipeline), long_prompt(pipeline, 100), "")
    assert (
        long["prompt_embeds"].shape == long["negative_prompt_embeds"].shape == (1, 154, ours["prompt_embeds"].shape[2])
    )
    pipeline(**long, **settings)
