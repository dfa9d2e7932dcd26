import itertools

import pytest
import torch
from torch import nn

from finetune.config.optim import OptimConfig
from finetune.optim.build import build_optimizer
from finetune.optim.ema import trained_state
from finetune.optim.groups import ParamGroup, hold, is_held


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "muon", "adamw_schedule_free", "lion8bit"])
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
