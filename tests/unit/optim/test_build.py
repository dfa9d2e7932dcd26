import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.config.optim import OPTIMIZERS, OptimConfig, Optimizer
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Network
from finetune.models.prompts import Prompts
from finetune.optim.build import build_optimizer, check_optimizer, evaluation_weights
from finetune.optim.ema import EMA, load_trained_state, trained_state
from finetune.optim.groups import usual_groups
from finetune.optim.per_parameter import PerParameterOptimizer
from tests.support.runs import differing
from tests.tiny.sd import build_pipeline

ROOT = Path(__file__).parents[3]
NAMES = tuple(OPTIMIZERS)
RATES: dict[Optimizer, float] = {"prodigy": 1.0, "lion8bit": 1e-2, "adafactor": 5e-2}


class Quadratic(nn.Module):
    """Weights named as in `Network`, large enough for 8-bit state."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = nn.Linear(128, 64, bias=False)
        self.text_encoders = nn.ModuleList([nn.Linear(64, 8, bias=False)])
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def loss(self) -> Tensor:
        return sum((p.square().mean() for p in self.parameters() if p.requires_grad), torch.zeros(()))


def copies(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(model: nn.Module, expected: list[Tensor]) -> bool:
    return all(torch.equal(p, value) for p, value in zip(model.parameters(), expected, strict=True))


def config_of(name: Optimizer) -> OptimConfig:
    return OptimConfig(name=name, lr=RATES.get(name, 5e-2))


def steps(model: Quadratic, optimizer: torch.optim.Optimizer, num: int, *, first: int = 0) -> None:
    for step in range(first, first + num):
        if isinstance(optimizer, PerParameterOptimizer):
            optimizer.set_step(step)
        model.loss().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_lowers_a_quadratic(name: Optimizer) -> None:
    check_optimizer(config_of(name))
    model = Quadratic()
    before = model.loss().item()
    optimizer = build_optimizer(usual_groups(model, config_of(name)), config_of(name))
    steps(model, optimizer, 250 if name == "prodigy" else 30)  # prodigy feels its way from a tiny rate
    with evaluation_weights(optimizer, config_of(name)):
        assert model.loss().item() < 0.7 * before
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_name_of_an_optimizer_is_in_its_row_alone() -> None:
    word = re.compile(rf"(?<![\w.])({'|'.join(NAMES)})(?!\w)")
    paths = [path for folder in ("finetune", "recipes") for path in (ROOT / folder).rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in paths if word.search(path.read_text(encoding="utf-8"))]
    assert found == ["finetune/config/optim.py"]


@pytest.mark.parametrize("name", [name for name in NAMES if "8bit" in name])
def test_8_bit_optimizers_keep_8_bit_moments(name: Optimizer) -> None:
    model = Quadratic()
    optimizer = build_optimizer(usual_groups(model, config_of(name)), config_of(name))
    steps(model, optimizer, 1)
    assert optimizer.state[model.denoiser.weight]["state1"].dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_state_saved_and_loaded_continues_the_same_way(name: Optimizer, tmp_path: Path) -> None:
    """Through a file read with weights_only, as in checkpoints."""
    config = config_of(name)
    first, second = Quadratic(), Quadratic()
    optimizers = [build_optimizer(usual_groups(model, config), config) for model in (first, second)]
    steps(first, optimizers[0], 5)
    torch.save(optimizers[0].state_dict(), tmp_path / "state.pt")
    load_trained_state(second, trained_state(first))
    optimizers[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for model, optimizer in zip((first, second), optimizers, strict=True):
        steps(model, optimizer, 5)
    assert same(first, copies(second))


def test_an_optimizer_whose_package_is_missing_is_refused_with_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "prodigyopt", raising=False)
    with pytest.raises(ValueError, match=r"prodigyopt.*pip install"):
        check_optimizer(OptimConfig(name="prodigy", lr=1.0))
    check_optimizer(OptimConfig())


def test_groups_hold_what_trains_with_its_own_rate() -> None:
    model = Quadratic()
    denoiser, text = usual_groups(model, OptimConfig(lr=1e-3, text_encoder_lr=1e-5))
    assert denoiser.parameters == [model.denoiser.weight] and denoiser.lr == 1e-3
    assert text.parameters == list(model.text_encoders.parameters()) and text.lr == 1e-5
    assert usual_groups(model, OptimConfig(lr=1e-3))[1].lr == 1e-3
    model.text_encoders.requires_grad_(False)
    assert len(usual_groups(model, OptimConfig())) == 1


def test_looking_at_schedule_free_weights_restores_the_training_weights_bit_for_bit() -> None:
    config = config_of("adamw_schedule_free")
    looked, alone = Quadratic(), Quadratic()
    optimizers = [build_optimizer(usual_groups(model, config), config) for model in (looked, alone)]
    for _ in range(10):
        for model, optimizer in zip((looked, alone), optimizers, strict=True):
            steps(model, optimizer, 1)
        before = copies(looked)
        with evaluation_weights(optimizers[0], config):
            averaged = copies(looked)
        assert same(looked, before) and same(alone, before)
    assert not torch.equal(averaged[0], before[0])


def test_training_weights_come_back_also_when_looking_fails() -> None:
    config = config_of("adamw_schedule_free")
    model = Quadratic()
    optimizer = build_optimizer(usual_groups(model, config), config)
    steps(model, optimizer, 3)
    before = copies(model)
    with pytest.raises(RuntimeError, match="in between"), evaluation_weights(optimizer, config):
        raise RuntimeError("in between")
    assert same(model, before)
    steps(model, optimizer, 1)  # still in training mode


def test_other_optimizers_have_no_second_set_of_weights() -> None:
    model = Quadratic()
    optimizer = build_optimizer(usual_groups(model, OptimConfig()), OptimConfig())
    steps(model, optimizer, 2)
    before = copies(model)
    with evaluation_weights(optimizer, OptimConfig()):
        assert same(model, before)


def set_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_of_constant_weights_has_its_closed_form(decay: float) -> None:
    """a_n = w + (a_0 - w) d_1 d_2 ... d_n for constant w. d_k = min(decay, (1 + k) / (10 + k))."""
    model = Quadratic()
    set_to(model, 3.0)
    ema = EMA.from_network(model, decay)
    set_to(model, 1.0)
    product = 1.0
    for step in range(1, 40):
        ema.update(model, step)
        product *= min(decay, (1 + step) / (10 + step))
        for average in ema.average.values():
            torch.testing.assert_close(average, torch.full_like(average, 1 + 2 * product), rtol=1e-5, atol=0)
    assert ema.average.keys() == trained_state(model).keys()


def test_weights_that_never_move_are_their_own_average_bit_for_bit() -> None:
    model = Quadratic()
    ema = EMA.from_network(model, 0.99)
    for step in range(1, 20):
        ema.update(model, step)
    assert differing(ema.average, trained_state(model)) == []


def test_the_average_stands_in_and_the_weights_come_back_bit_for_bit() -> None:
    model = Quadratic()
    before = copies(model)
    ema = EMA.from_network(model, 0.9)
    for average in ema.average.values():
        average.fill_(7.0)
    with ema.in_place_of(model):
        assert all(bool((value == 7).all()) for value in trained_state(model).values())
    with pytest.raises(RuntimeError, match="in between"), ema.in_place_of(model):
        raise RuntimeError("in between")
    assert same(model, before)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    model = Quadratic()
    state = trained_state(model)
    with pytest.raises(ValueError, match=r"1 are missing.*denoiser\.weight"):
        load_trained_state(model, {name: value for name, value in state.items() if not name.startswith("denoiser")})
    with pytest.raises(ValueError, match=r"denoiser\.weight has shape"):
        load_trained_state(model, state | {"denoiser.weight": torch.zeros(1)})


def test_the_network_computes_in_the_number_format_of_its_frozen_weights() -> None:
    pipeline = build_pipeline(size="micro")
    network = Network(StableDiffusion(), pipeline.unet.to(torch.bfloat16))
    prompts = Prompts(torch.zeros(1, 77, 32))
    with torch.no_grad():
        assert network(torch.zeros(1, 4, 8, 8), torch.tensor([1]), prompts).dtype == torch.bfloat16
