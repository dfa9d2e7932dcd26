"""The text encoder stands still after its steps, exactly, and everything else goes on."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.config.optim import OptimConfig
from finetune.optim.build import build_optimizer
from finetune.optim.ema import trained_state
from finetune.optim.groups import ParamGroup, hold, is_held
from tests.support.runs import Options, final_state, metrics, run


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "adamw_schedule_free", "lion8bit"])
def test_held_weights_do_not_move_by_decay_or_momentum(name: str) -> None:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"denoiser": nn.Linear(64, 64), "text_encoder": nn.Linear(64, 64)})
    config = OptimConfig(name=name, lr=1.0 if name == "prodigy" else 0.01, weight_decay=0.1)  # pyright: ignore[reportArgumentType]
    groups = [ParamGroup(key, list(part.parameters()), config.lr) for key, part in parts.items()]
    optimizer = build_optimizer(groups, config)
    states = []
    for step in range(6):
        sum(part(torch.ones(2, 64)).square().sum() for part in parts.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if is_held(group["name"], step, 3) else group["peak_lr"]
        hold(optimizer.param_groups, step, 3)
        optimizer.step()
        optimizer.zero_grad()
        states.append({key: value.clone() for key, value in trained_state(parts).items()})
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert any(key.startswith("denoiser") for key in moved)
        assert any(key.startswith("text_encoder") for key in moved) == (number < 2)


def test_without_the_option_nothing_is_held() -> None:
    assert not is_held("text_encoder", 10**9, None)
    assert not is_held("denoiser", 5, 5)
    assert is_held("text_encoder", 5, 5) and not is_held("text_encoder", 4, 5)


@pytest.fixture
def encoder_run(tiny_run: Options) -> Options:
    return tiny_run | {"train.text_encoder": True, "cache.text": False, "checkpoint.every": 100, "lora.rank": 2}


def test_a_run_leaves_the_encoder_as_a_shorter_run_left_it(encoder_run: Options, tmp_path: Path) -> None:
    """Three steps, and five of which three train the encoder: it is the same bit for bit, with its optimizer state."""
    short = encoder_run | {"output.folder": tmp_path / "short", "train.steps": 3}
    long = encoder_run | {"output.folder": tmp_path / "long", "train.steps": 5, "train.text_encoder_steps": 3}
    for options in (short, long):
        ended = run("lora", options, tmp_path / "log")
        assert ended.exit_code == 0, ended.output
    first, second = final_state(tmp_path / "short"), final_state(tmp_path / "long")
    encoder = [name for name in first if name.startswith("trained.text_encoders.")]
    assert encoder
    assert all(torch.equal(first[name], second[name]) for name in encoder)
    denoiser = [name for name in first if name.startswith("trained.denoiser.")]
    assert all(not torch.equal(first[name], second[name]) for name in denoiser if "lora_B" in name)
    assert [row["lr_text_encoder"] for row in metrics(tmp_path / "long")] == [1e-2, 1e-2, 1e-2, 0.0, 0.0]
    assert {float(second[name]) for name in second if name.endswith(".step")} == {3.0, 5.0}
