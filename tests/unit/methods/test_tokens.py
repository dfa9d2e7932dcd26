from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.config.optim import OptimConfig
from finetune.config.recipes import LoRAConfig, TokensConfig
from finetune.config.sections import ModelConfig
from finetune.methods.lora.method import LoRA
from finetune.methods.pivotal import Pivotal
from finetune.methods.tokens import TextualInversion, token_embeddings
from finetune.models.family import Components, ModelSource, Network
from finetune.optim.build import build_optimizer
from finetune.optim.ema import trained_state
from tests.support.adapter_models import FAMILY, fresh
from tests.support.runs import differing

TOKENS = TokensConfig(names=("<ink>", "<wash>"), num_vectors=2, init=("red circle", "paper"))
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.5)
ROWS = "text_encoders.0.embeddings.token_embedding.rows"


def attached(method: TextualInversion | Pivotal, components: Components) -> Network:
    network = method.network(FAMILY, components)
    method.attach(network, seed=3)
    return network


def take_steps(method: TextualInversion | Pivotal, network: Network, components: Components, num: int = 3) -> None:
    optimizer = build_optimizer(method.param_groups(network, OPTIM), OPTIM)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = FAMILY.tokenize(components.tokenizers, ["a <ink> on <wash>", ""])
    for _ in range(num):
        network(noisy, torch.tensor([10, 800]), prompts).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def without_rows(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if not name.endswith(".rows")}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (TokensConfig(names=("circle",)), ["circle"]),  # "circle</w>" in the vocabulary
        (TokensConfig(names=("<ink>", "r")), ["knows r "]),
        (TokensConfig(names=("<|endoftext|>",)), ["<|endoftext|>", "|endoftext|-new>"]),
        (TokensConfig(names=("<ink>",), init=("red zebra",)), ["tokens.init", "zebra ("]),
        (TokensConfig(names=("<ink>",), init=("red, circle",)), ["red , (red</w> + ,</w>)"]),
    ],
)
def test_known_names_and_unknown_words_are_refused_before_weights_are_read(
    tokens: TokensConfig, words: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for part in ("model_index.json", "tokenizer"):
        (model / part).symlink_to(tiny_model / part)
    with pytest.raises(ValueError) as caught:
        TextualInversion.from_config(tokens, ModelConfig(str(model)))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture
def components(tiny_model: Path) -> Components:
    return fresh(ModelSource(str(tiny_model)))


def test_tokens_start_from_their_words(components: Components, tiny_model: Path) -> None:
    table = components.text_encoders[0].get_input_embeddings().weight.clone()
    network = attached(TextualInversion.from_config(TOKENS, ModelConfig(str(tiny_model))), components)
    (embedding,) = token_embeddings(network).values()
    numbers = [components.tokenizers[0].convert_tokens_to_ids(f"{word}</w>") for word in ("red", "circle", "paper")]
    assert torch.equal(embedding.rows, table[[numbers[0], numbers[1], numbers[2], numbers[2]]])


def test_only_the_new_vectors_train_and_all_else_keeps_its_bits(components: Components, tiny_model: Path) -> None:
    method = TextualInversion.from_config(TOKENS, ModelConfig(str(tiny_model)))
    network = attached(method, components)
    assert trained_state(network).keys() == {ROWS}
    before, rows = without_rows(network), trained_state(network)[ROWS].clone()
    take_steps(method, network, components)
    assert differing(before, without_rows(network)) == []
    assert bool((trained_state(network)[ROWS] != rows).any(dim=1).all())
    assert next(iter(method.param_groups(network, OPTIM))).weight_decay == 0.0


def test_a_vector_that_no_caption_reaches_does_not_move(components: Components, tiny_model: Path) -> None:
    """Weight decay would move it."""
    method = TextualInversion.from_config(replace(TOKENS, names=("<ink>", "<unseen>")), ModelConfig(str(tiny_model)))
    network = attached(method, components)
    rows = trained_state(network)[ROWS].clone()
    take_steps(method, network, components)
    assert (trained_state(network)[ROWS] != rows).any(dim=1).tolist() == [True, True, False, False]


def pivotal(model: Path, *, text_encoder: bool, lr: float | None = 1e-3) -> Pivotal:
    tokens = TextualInversion.from_config(replace(TOKENS, lr=lr), ModelConfig(str(model)))
    return Pivotal(LoRA(LoRAConfig(rank=2), text_encoder), tokens)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_pivotal_tuning_trains_adapters_and_tokens_at_their_own_rates(
    text_encoder: bool, components: Components, tiny_model: Path
) -> None:
    method = pivotal(tiny_model, text_encoder=text_encoder)
    network = attached(method, components)
    groups = method.param_groups(network, replace(OPTIM, text_encoder_lr=1e-4 if text_encoder else None))
    expected = {"denoiser": 1e-2} | ({"text_encoder": 1e-4} if text_encoder else {}) | {"tokens": 1e-3}
    assert {group.name: group.lr for group in groups} == expected
    assert [group.weight_decay for group in groups] == [None] * (len(groups) - 1) + [0.0]
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    trained = {name: id(p) for name, p in network.named_parameters() if p.requires_grad}
    assert sorted(grouped) == sorted(trained.values())
    assert all(".lora_" in name or name == ROWS for name in trained)
    assert any(name.startswith("text_encoders.0.encoder") for name in trained) == text_encoder

    frozen = {name: value for name, value in without_rows(network).items() if ".lora_" not in name}
    before = {name: value.clone() for name, value in trained_state(network).items()}
    take_steps(method, network, components)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in frozen.items())
    assert all(not torch.equal(value, before[name]) for name, value in trained_state(network).items())


def test_tokens_do_not_change_what_adapters_start_from(components: Components, tiny_model: Path) -> None:
    network = Network(FAMILY, fresh(ModelSource(str(tiny_model))).denoiser)
    LoRA(LoRAConfig(rank=2)).attach(network, seed=3)
    both = trained_state(attached(pivotal(tiny_model, text_encoder=False), components))
    assert all(torch.equal(value, both[name]) for name, value in trained_state(network).items())
