import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from finetune.config.lora import LoRAConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import OutputConfig
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.export.verify import prediction, relative_difference
from finetune.methods.lora.adapters import adapted_layers, adapter_layers, layer_scales
from finetune.methods.lora.init import weight_factors
from finetune.methods.lora.method import LoRA
from finetune.models.family import ModelSource
from finetune.optim.ema import trained_state
from tests.support.adapter_models import FAMILY, KINDS, attached, fresh
from tests.support.runs import differing

UP_TO_ROUNDING = {"pissa", "olora", "orthogonal", "dora"}
"""The other kinds start from the base model's very numbers."""
OF_THE_WEIGHTS = {"pissa", "olora", "oft"}
"""Kinds whose start needs no seed."""


@pytest.fixture(scope="module")
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(str(tiny_model))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_start_from_the_base_model_and_are_a_function_of_the_seed(kind: str, source: ModelSource) -> None:
    config = LoRAConfig(**KINDS[kind])
    untouched, components, again = (fresh(source) for _ in range(3))
    state = torch.random.get_rng_state()
    network = attached(components, config)
    assert torch.equal(torch.random.get_rng_state(), state)
    difference = relative_difference(prediction(FAMILY, untouched), prediction(FAMILY, components))
    assert difference < 2e-6 if kind in UP_TO_ROUNDING else difference == 0
    torch.rand(1)  # the global random state has no part in it
    assert differing(network.state_dict(), attached(again, config).state_dict()) == []
    other = attached(fresh(source), config, seed=1)
    assert kind in OF_THE_WEIGHTS or differing(network.state_dict(), other.state_dict())


class DenoiserAlone(type(FAMILY)):
    """A family whose pipeline loads LoRA of the denoiser only."""

    reads_text_encoder_lora = False


def test_lora_of_text_encoders_that_the_pipeline_cannot_load_is_refused(source: ModelSource) -> None:
    components = fresh(source)
    with pytest.raises(ValueError, match=r"train\.text_encoder: got true.*--lora\.kind loha"):
        LoRA(LoRAConfig(), text_encoder=True).check(DenoiserAlone(), components)
    LoRA(LoRAConfig()).check(DenoiserAlone(), components)
    LoRA(LoRAConfig(kind="loha"), text_encoder=True).check(DenoiserAlone(), components)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_encoder_has_its_own_rate_whatever_the_kind(kind: str, source: ModelSource) -> None:
    config = LoRAConfig(**KINDS[kind])
    network = attached(fresh(source), config)
    groups = LoRA(config).param_groups(network, OptimConfig(lr=1e-4, text_encoder_lr=1e-5))
    rates = {id(parameter): group.lr for group in groups for parameter in group.parameters}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert rates.pop(id(parameter)) == (1e-5 if name.startswith("text_encoders.") else 1e-4)
    assert not rates


def test_lora_plus_gives_b_a_multiple_of_the_rate_of_a(source: ModelSource) -> None:
    config = LoRAConfig(rank=2, dora=True, plus_ratio=16)
    network = attached(fresh(source), config)
    groups = LoRA(config).param_groups(network, OptimConfig(lr=1e-4, text_encoder_lr=1e-5))
    assert {group.name: (group.lr, group.weight_decay) for group in groups} == {
        "denoiser": (1e-4, None),
        "denoiser_magnitude": (1e-4, 0.0),
        "denoiser_b": (16e-4, None),
        "text_encoder": (1e-5, None),
        "text_encoder_magnitude": (1e-5, 0.0),
        "text_encoder_b": (pytest.approx(16e-5), None),
    }
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in groups:
        expected = {"b": ".lora_B.", "magnitude": ".lora_magnitude_vector."}.get(group.name.split("_")[-1], ".lora_A.")
        assert all(expected in names[id(parameter)] for parameter in group.parameters)


def test_patterns_and_rslora_set_rank_and_scale_of_single_layers(source: ModelSource) -> None:
    config = LoRAConfig(rank=4, alpha=6.0, rslora=True, rank_pattern=("attn2=9", "attn=2"), alpha_pattern=("attn1=1",))
    network = attached(fresh(source), config)
    scales = layer_scales(network)
    for name, layer in adapter_layers(network):
        rank = 9 if "attn2" in name else 2 if "attn" in name else 4  # the first pattern that matches counts
        alpha = 1.0 if "attn1" in name else 6.0
        assert layer.lora_A["default"].weight.shape[0] == rank
        assert scales[name] == pytest.approx(alpha / rank**0.5)


def test_convolutions_are_those_of_residual_blocks_and_samplers(source: ModelSource) -> None:
    plain, more = ({name for name, _ in adapter_layers(attached(fresh(source), LoRAConfig(conv=c)))} for c in (0, 1))
    ends = {name.split(".resnets.0.")[-1].split(".resnets.1.")[-1].split("blocks.")[-1] for name in more - plain}
    assert plain < more
    expected = {"conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"}
    assert {end[2:] if end[0].isdigit() else end for end in ends} == expected


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_from_the_weight_are_those_of_peft_where_it_has_them(start: str, source: ModelSource) -> None:
    """peft's own classes do linear layers only."""
    targets = ("to_q", "to_k", "ff.net.2")
    ours, theirs = fresh(source), fresh(source)
    attached(ours, LoRAConfig(rank=4, alpha=6.0, init=start, targets=targets), text_encoder=False)  # pyright: ignore[reportArgumentType]
    config: Any = LoraConfig(r=4, lora_alpha=6, init_lora_weights=start, target_modules=list(targets))  # pyright: ignore[reportArgumentType]
    inject_adapter_in_model(config, theirs.denoiser)
    for (name, layer), (_, other) in zip(adapter_layers(ours.denoiser), adapter_layers(theirs.denoiser), strict=True):
        torch.testing.assert_close(layer.get_delta_weight("default"), other.get_delta_weight("default"), msg=name)
        torch.testing.assert_close(layer.get_base_layer().weight, other.get_base_layer().weight, msg=name)


def test_pissa_is_the_best_approximation_of_the_rank() -> None:
    """The residual has the norm of the omitted singular values. This is the theorem of Eckart and Young."""
    matrix = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    a, b = weight_factors(matrix, 3, "pissa")
    rest = torch.linalg.svdvals(matrix)[3:]
    torch.testing.assert_close((matrix - b @ a).norm(), rest.norm())
    torch.testing.assert_close((a @ a.T).diag(), (b.T @ b).diag())  # the singular values are shared evenly


def test_what_no_layer_fits_is_refused_by_name(source: ModelSource) -> None:
    wrong: dict[str, LoRAConfig] = {
        "rank_pattern.*attn7=2.*matches no adapted layer": LoRAConfig(rank_pattern=("attn7=2",)),
        "alpha_pattern.*attn7": LoRAConfig(alpha_pattern=("attn7=2",)),
        "lora.targets.*to_z": LoRAConfig(targets=("to_q", "to_z")),
        "lora.targets.*LayerNorm": LoRAConfig(targets=("norm1",), conv=True),
        "lora.rank.*16.*8 directions": LoRAConfig(init="pissa"),
        "even rank": LoRAConfig(rank=3, init="orthogonal"),
        "lora.block_size.*32": LoRAConfig(kind="oft"),
        "kernel larger than 1": LoRAConfig(kind="oft", block_size=2, targets=("conv1",)),
    }
    for words, config in wrong.items():
        with pytest.raises(ValueError, match=words):
            attached(fresh(source), config)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "loha", "dora": True}, "lora.dora"),
        ({"kind": "lokr", "init": "pissa"}, "lora.init"),
        ({"kind": "loha", "dropout": 0.1}, "lora.dropout"),
        ({"kind": "oft", "rslora": True}, "lora.rslora"),
        ({"kind": "lokr", "plus_ratio": 16.0}, "lora.plus_ratio"),
        ({"kind": "oft", "rank": 8}, "lora.rank"),
        ({"kind": "oft", "alpha": 8.0}, "lora.alpha"),
        ({"kind": "oft", "conv": True}, "lora.conv"),
        ({"kind": "loha", "block_size": 8}, "lora.block_size"),
        ({"factor": 4}, "lora.factor"),
        ({"dora": True, "init": "pissa"}, "lora.init"),
        ({"rank_pattern": ("attn2",)}, "lora.rank_pattern"),
        ({"rank_pattern": ("attn2=1.5",)}, "lora.rank_pattern"),
        ({"alpha_pattern": ("(=2",)}, "lora.alpha_pattern"),
        ({"alpha_pattern": ("attn2=0",)}, "lora.alpha_pattern"),
        ({"plus_ratio": 0.0}, "lora.plus_ratio"),
        ({"kind": "lokr", "factor": 0}, "lora.factor"),
        ({"kind": "oft", "block_size": 1}, "lora.block_size"),
    ],
)
def test_contradictions_are_refused_before_a_model_loads(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        config(LoRAConfig(**options))


def config(lora: LoRAConfig, **options: Any) -> LoRATrainConfig:
    return LoRATrainConfig(ModelConfig("model"), DataConfig("data"), OutputConfig(Path("out")), lora=lora, **options)


def test_targets_without_a_match_are_told_the_names_of_linear_layers() -> None:
    attention = nn.ModuleDict({"to_q": nn.Linear(2, 2), "to_out": nn.ModuleList([nn.Linear(2, 2)])})
    network = nn.ModuleDict({"attn1": attention})
    with pytest.raises(ValueError, match=r"ends with one of attn\. Use ends of names of its linear layers: to_q;"):
        adapted_layers(network, "denoiser", ["attn"])
    assert adapted_layers(network, "denoiser", ["to_q"]) == ["attn1.to_q"]


def test_one_rate_for_all_leaves_none_for_b() -> None:
    with pytest.raises(ValueError, match=r"lora\.plus_ratio.*prodigy"):
        config(LoRAConfig(plus_ratio=4.0), optim=OptimConfig(name="prodigy", lr=1.0))


def test_every_option_names_its_paper() -> None:
    papers = {"kind": "2306.07280", "rslora": "2312.03732", "dora": "2402.09353", "init": "2404.02948"}
    for name, paper in papers.items():
        assert paper in inspect.getsource(LoRAConfig).split(f"    {name}: ", 1)[1].split('"""')[1]


def test_the_state_of_every_kind_has_names_of_its_own(source: ModelSource) -> None:
    """So weights of another kind are never loaded."""
    configs = (LoRAConfig(**KINDS[kind]) for kind in ("lora", "loha", "lokr", "oft"))
    assert len({frozenset(trained_state(attached(fresh(source), config))) for config in configs}) == 4
