import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from finetune.models.families.sd import StableDiffusion
from finetune.models.text.tokens import TokenEmbedding, add_tokens, drawn_like, spread, with_all_vectors
from tests.tiny.sd import build_pipeline

FAMILY = StableDiffusion()
PROMPTS = (
    "",
    "a red circle",
    "a red circle in <ink>",
    "<ink>,<ink> <one>, a<ink>b <ONE> é",
    "a <Ink> circle, <ink>_1",
    "<ink> " * 20 + "a",  # 61 tokens
)


def rows_of(num: int, width: int = 32) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(num))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """A pipeline with tokens of three vectors and one, through diffusers."""
    folder = tmp_path_factory.mktemp("tokens")
    pipeline = build_pipeline(size="micro")
    for name, rows in {"<ink>": rows_of(3), "<one>": rows_of(1)}.items():
        path = folder / f"{name.strip('<>')}.safetensors"
        safetensors.torch.save_file({name: rows}, path)
        pipeline.load_textual_inversion(folder, weight_name=path.name)
    return pipeline


@pytest.fixture(scope="module")
def ours() -> StableDiffusionPipeline:
    pipeline = build_pipeline(size="micro")
    embedding = add_tokens(pipeline.tokenizer, pipeline.text_encoder, ["<ink>", "<ink>_1", "<ink>_2", "<one>"])
    embedding.rows.data.copy_(torch.cat([rows_of(3), rows_of(1)]))
    return pipeline


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_means_what_it_means_in_diffusers(
    prompt: str, loaded: StableDiffusionPipeline, ours: StableDiffusionPipeline
) -> None:
    assert with_all_vectors(ours.tokenizer, prompt) == loaded.maybe_convert_prompt(prompt, loaded.tokenizer)
    with torch.no_grad():
        expected, _ = loaded.encode_prompt(prompt, torch.device("cpu"), 1, False)
        found = FAMILY.encode_prompts([ours.text_encoder], FAMILY.tokenize([ours.tokenizer], [prompt])).embeddings
    assert torch.equal(found, expected)


def test_chunks_are_counted_after_a_token_has_become_its_vectors(ours: StableDiffusionPipeline) -> None:
    ids = [FAMILY.tokenize([ours.tokenizer], ["<ink> " * num]) for num in (25, 26)]
    assert [each.chunks.tolist() for each in ids] == [[1], [2]]
    names = ["<|startoftext|>", "<ink>", "<ink>_1", "<ink>_2", "<|endoftext|>"]
    assert ids[1].ids[0][0, 1, :5].tolist() == ours.tokenizer.convert_tokens_to_ids(names)


def test_tokenizing_changes_neither_the_tokenizer_nor_the_captions(ours: StableDiffusionPipeline) -> None:
    captions, before = ["a <ink>", "b"], ours.tokenizer.backend_tokenizer.to_str()
    FAMILY.tokenize([ours.tokenizer], captions)
    assert ours.tokenizer.backend_tokenizer.to_str() == before and captions == ["a <ink>", "b"]


def test_prompts_without_a_token_are_tokenized_as_before() -> None:
    plain, taught = build_pipeline(size="micro"), build_pipeline(size="micro")
    add_tokens(taught.tokenizer, taught.text_encoder, ["<ink>", "<ink>_1"])
    captions = ["a red circle", "ink_1, <in>", "a " * 80]
    first, second = (FAMILY.tokenize([pipeline.tokenizer], captions) for pipeline in (plain, taught))
    assert torch.equal(first.ids[0], second.ids[0]) and torch.equal(first.chunks, second.chunks)
    with torch.no_grad():
        outputs = [FAMILY.encode_prompts([pipeline.text_encoder], first).embeddings for pipeline in (plain, taught)]
    assert torch.equal(*outputs)


def test_a_model_whose_table_has_spare_rows_keeps_them_for_nobody() -> None:
    table = torch.nn.Embedding(10, 4)
    embedding = TokenEmbedding(table, 7, 2)
    embedding.rows.data.fill_(5.0)
    found = embedding(torch.tensor([[6, 7, 8]]))
    assert torch.equal(found[0, 0], table.weight[6]) and bool((found[0, 1:] == 5).all())


def test_the_gradient_reaches_the_rows_alone_and_is_that_of_a_larger_table() -> None:
    table = torch.nn.Embedding(6, 4).requires_grad_(False)
    embedding = TokenEmbedding(table, 6, 3)
    embedding.rows.data.copy_(rows_of(3, 4))
    embedding.rows.requires_grad_(True)
    whole = torch.nn.Embedding.from_pretrained(torch.cat([table.weight, embedding.rows.detach()]), freeze=False)
    ids, weights = torch.tensor([[1, 6, 8], [8, 0, 5]]), rows_of(24).reshape(2, 3, 4, 32)[..., 0]
    (embedding(ids) * weights).sum().backward()
    (whole(ids) * weights).sum().backward()
    assert table.weight.grad is None and whole.weight.grad is not None
    assert torch.equal(embedding.rows.grad, whole.weight.grad[6:])
    assert bool((embedding.rows.grad[1] == 0).all())


def test_a_table_in_half_precision_gives_half_precision_from_float32_rows() -> None:
    embedding = TokenEmbedding(torch.nn.Embedding(4, 4).to(torch.bfloat16), 4, 1)
    embedding.rows.data = torch.full((1, 4), 1 / 3)
    found = embedding(torch.tensor([4, 0]))
    assert found.dtype == torch.bfloat16 and embedding.rows.dtype == torch.float32
    assert torch.equal(found[0], torch.full((4,), 1 / 3).bfloat16())


@pytest.mark.parametrize(
    ("num", "expected"),
    [(1, [2.0]), (2, [1.5, 2.5]), (3, [1.0, 2.0, 3.0]), (5, [1.0, 1.5, 2.0, 2.5, 3.0]), (6, [1, 1, 2, 2, 3, 3])],
)
def test_three_words_are_spread_over_vectors(num: int, expected: list[float]) -> None:
    assert spread(torch.tensor([[1.0], [2.0], [3.0]]), num).flatten().tolist() == expected


def test_random_starts_have_the_spread_of_the_table_and_depend_on_seed_and_name() -> None:
    table = rows_of(500) * torch.linspace(0.01, 1, 32) + torch.arange(32)
    drawn = drawn_like(table, 4000, 0, "<ink>")
    torch.testing.assert_close(drawn.mean(0), table.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(drawn.std(0), table.std(0), rtol=0.06, atol=0)
    assert torch.equal(drawn, drawn_like(table, 4000, 0, "<ink>"))
    assert not torch.equal(drawn, drawn_like(table, 4000, 1, "<ink>"))
    assert not torch.equal(drawn, drawn_like(table, 4000, 0, "<wash>"))


def test_each_process_adds_the_same_tokens() -> None:
    first, second = build_pipeline(size="micro"), build_pipeline(size="micro")
    for pipeline in (first, second):
        add_tokens(pipeline.tokenizer, pipeline.text_encoder, ["<b>", "<a>", "<a>_1"])
    assert first.tokenizer.backend_tokenizer.to_str() == second.tokenizer.backend_tokenizer.to_str()
