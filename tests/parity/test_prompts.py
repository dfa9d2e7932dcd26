import pytest
import torch
from diffusers import StableDiffusionPipeline

from finetune.models.families.sd import StableDiffusion
from finetune.models.prompts import Prompts
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline

FAMILY = StableDiffusion()
LONG = ", ".join(f"a {color} {shape}" for color in ("red", "green", "blue", "yellow") for shape in ("circle", "cross"))


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def pipeline(request: pytest.FixtureRequest) -> StableDiffusionPipeline:
    sd2 = request.param == "sd2"
    return build_pipeline(size="micro", sd2=sd2, prediction_type="v_prediction" if sd2 else "epsilon")


def encoded(pipeline: StableDiffusionPipeline, *captions: str) -> Prompts:
    with torch.no_grad():
        return FAMILY.encode_prompts([pipeline.text_encoder], FAMILY.tokenize([pipeline.tokenizer], captions))


def long_prompt(pipeline: StableDiffusionPipeline, num_tokens: int) -> str:
    """A prompt of so many tokens, no two neighbours alike."""
    words = f"{LONG}, ".split(" ")
    text = ""
    while len(ids_of(pipeline, text)) < num_tokens:
        text += words[len(text) % len(words)] + " "
    return text


def ids_of(pipeline: StableDiffusionPipeline, text: str) -> list[int]:
    return pipeline.tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def test_a_prompt_of_200_tokens_fills_three_chunks_and_loses_none(pipeline: StableDiffusionPipeline) -> None:
    prompt = long_prompt(pipeline, 200)
    ids = ids_of(pipeline, prompt)
    tokens = FAMILY.tokenize([pipeline.tokenizer], [prompt])
    assert tokens.ids[0].shape == (1, 3, 77) and tokens.chunks.tolist() == [3]
    tokenizer = pipeline.tokenizer
    found: list[int] = []
    for row in tokens.ids[0][0].tolist():
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
    assert FAMILY.tokenize([pipeline.tokenizer], [prompt]).chunks.tolist() == [num_chunks]


def test_each_chunk_is_encoded_as_if_it_stood_alone(pipeline: StableDiffusionPipeline) -> None:
    prompt = "a " * 75 + "red " * 75 + "circle " * 20
    whole = encoded(pipeline, prompt).embeddings
    pieces = [encoded(pipeline, piece).embeddings for piece in ("a " * 75, "red " * 75, "circle " * 20)]
    assert whole.shape[1] == 3 * 77
    torch.testing.assert_close(whole, torch.cat(pieces, dim=1), rtol=1e-5, atol=1e-6)


def test_previews_take_prompts_of_any_length(pipeline: StableDiffusionPipeline) -> None:
    given = FAMILY.pipeline_prompts(components_of(pipeline), long_prompt(pipeline, 100), "")
    width = pipeline.unet.config.cross_attention_dim
    assert given["prompt_embeds"].shape == given["negative_prompt_embeds"].shape == (1, 154, width)
    pipeline(**given, num_inference_steps=2, height=16, width=16, output_type="np")
