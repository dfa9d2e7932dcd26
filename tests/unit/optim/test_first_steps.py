import pytest
import torch
from torch import nn

from finetune.optim.first_steps import NUM_WATCHED, FirstSteps


class Adapted(nn.Module):
    """A layer with a LoRA beside an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)
        nn.init.zeros_(self.up.weight)
        self.unused = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(self.down(x))


def alarms(
    network: Adapted,
    *,
    joined: bool = False,
    lr: float = 1e-2,
    unused: bool = False,
    num_steps: int = NUM_WATCHED,
    growth: float = 1.0,
) -> list[str]:
    torch.manual_seed(0)
    groups = [{"name": "denoiser", "params": [network.down.weight, network.up.weight], "lr": lr}]
    if joined:
        groups[0]["params"] += network.unused.parameters()
    if unused:
        groups.append({"name": "text_encoder", "params": list(network.unused.parameters()), "lr": lr})
    optimizer = torch.optim.AdamW(groups)
    watch, found = FirstSteps(optimizer, in_backward=False), []
    dtype = network.down.weight.dtype
    for step in range(1, num_steps + 1):
        x = torch.randn(4, 8, dtype=dtype)
        (growth ** (step - 1) * (network(x) - 2 * x).square().mean()).backward()
        norm = float(nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
        watch.see_gradients()
        optimizer.step()
        optimizer.zero_grad()
        found += watch.alarms(step, norm, lr, is_last=step == num_steps)
    return found


def test_a_lora_that_trains_raises_no_alarm() -> None:
    assert alarms(Adapted()) == []


def test_weights_that_no_gradient_reaches_are_named_with_their_group() -> None:
    (text,) = alarms(Adapted(), unused=True)
    assert "no gradient has reached the 2 parameters of text_encoder in 10 steps" in text


def test_a_part_of_a_group_without_a_gradient_is_counted() -> None:
    (text,) = alarms(Adapted(), joined=True)
    assert "no gradient has reached 2 of the 4 parameters of denoiser in 10 steps" in text
    assert alarms(Adapted(), joined=True, num_steps=2) == []  # too early to tell


@pytest.mark.parametrize("name", ["up", "down"])
def test_one_matrix_of_zeros_is_not_enough_for_an_alarm_and_two_are(name: str) -> None:
    network = Adapted()
    nn.init.zeros_(network.down.weight)  # now neither matrix has a gradient: the adapter stays zero for ever
    (text,) = alarms(network)
    assert "no gradient has reached the 2 parameters of denoiser" in text
    alive = Adapted()
    nn.init.ones_(getattr(alive, name).weight)
    assert alarms(alive) == []


def test_updates_that_the_number_format_swallows_are_told() -> None:
    network = Adapted().to(torch.bfloat16)
    nn.init.ones_(network.up.weight)
    nn.init.ones_(network.down.weight)
    (text,) = alarms(network, lr=1e-5)
    assert "have not changed in 10 steps" in text and "--optim.weights fp32" in text


def test_a_rate_of_zero_was_the_users_wish() -> None:
    assert alarms(Adapted(), lr=0.0) == []


def test_gradients_that_explode_are_told_once_with_step_and_rate() -> None:
    (text,) = alarms(Adapted(), growth=30.0)
    assert "in step" in text and "training diverges" in text and "optim.lr (now 0.01)" in text


def test_a_single_large_gradient_of_ten_times_the_usual_is_no_alarm() -> None:
    assert alarms(Adapted(), growth=1.2) == []


def test_a_run_shorter_than_the_watch_is_judged_at_its_end() -> None:
    (text,) = alarms(Adapted(), unused=True, num_steps=3)
    assert "in 3 steps" in text
