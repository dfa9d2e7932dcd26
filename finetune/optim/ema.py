"""Exponential moving average of the trained weights."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finetune.optim.host_average import HostAverage
from finetune.optim.sharded import local, part_like
from finetune.out_of_memory import explaining_out_of_memory

State = dict[str, Tensor]

NEEDED_TWICE = "and the weights a second time while it is looked at"


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def trained_state(network: nn.Module) -> State:
    """Return the trained weights by name. They are not copied."""
    return {name: parameter.detach() for name, parameter in trained_parameters(network).items()}


@torch.no_grad()
def load_trained_state(network: nn.Module, state: State) -> None:
    """Copy `state` into the trainable parameters. Names and shapes must match exactly."""
    parameters = trained_parameters(network)
    if parameters.keys() != state.keys():
        missing, unknown = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
        raise ValueError(
            f"the saved weights do not fit the model: {len(missing)} are missing (first: {missing[:1]}), "
            f"{len(unknown)} are unknown (first: {unknown[:1]}). Resume with the options the run was started with, or "
            "use another output.folder."
        )
    for name, parameter in parameters.items():
        if parameter.shape != state[name].shape:
            raise ValueError(
                f"the saved weight {name} has shape {tuple(state[name].shape)}, the model has "
                f"{tuple(parameter.shape)}. Resume with the options the run was started with, or use another "
                "output.folder."
            )
        parameter.copy_(part_like(state[name], parameter))


@dataclass(frozen=True)
class EMA:
    """A float32 average that follows the trained weights. average <- d average + (1 - d) weight, where the decay d is
    min(decay, (1 + step) / (10 + step)), so the start is forgotten quickly (TensorFlow's ExponentialMovingAverage with
    num_updates)."""

    decay: float
    average: State
    """Read it through `settled` while training."""
    host: HostAverage | None = None

    @staticmethod
    def from_network(network: nn.Module, decay: float, device: Literal["same", "cpu"] = "same") -> "EMA":
        """Start an average at the weights, beside them or on the host."""
        weights = trained_state(network)
        with explaining_average(weights, device):
            average = {
                name: value.to(value.device if device == "same" else "cpu", torch.float32, copy=True)
                for name, value in weights.items()
            }
        return EMA(decay, average, None if device == "same" else HostAverage(average))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after optimizer step `step` (1, 2, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = trained_state(network)
        if self.host is not None:
            self.host.follow(weights, 1 - decay)
            return
        pairs = [(local(average), local(weights[name])) for name, average in self.average.items()]
        if wide := [pair for pair in pairs if pair[1].dtype == torch.float32]:
            followed, values = zip(*wide, strict=True)
            cast("Any", torch)._foreach_lerp_(followed, values, 1 - decay)
        for average, weight in pairs:
            if weight.dtype != torch.float32:  # one at a time, so one alone is there in float32
                average.lerp_(weight.float(), 1 - decay)

    def settled(self) -> State:
        """Return the average after the last update."""
        if self.host is not None:
            self.host.wait()
        return self.average

    @contextlib.contextmanager
    def in_place_of(self, network: nn.Module) -> Generator[None]:
        """Load the average into the network within the context. The trained weights come back bit for bit."""
        average, weights = self.settled(), trained_state(network)
        with explaining_average(weights, "same" if self.host is None else "cpu"):
            saved = {name: value.to(average[name].device, copy=True) for name, value in weights.items()}
        load_trained_state(network, average)
        try:
            yield
        finally:
            load_trained_state(network, saved)


def explaining_average(weights: State, device: Literal["same", "cpu"]) -> contextlib.AbstractContextManager[None]:
    """Explain running out of memory within the context by the average."""

    def doing() -> str:
        num = sum(value.numel() for value in weights.values())
        place = "beside the weights" if device == "same" else "in host memory"
        return f"for the average of {num:,} trained weights {place} ({4 * num / 1e9:.1f} GB, {NEEDED_TWICE})"

    lower = "Set train.ema_device cpu" if device == "same" else "Launch fewer processes"
    return explaining_out_of_memory(doing, f"{lower}, or train.ema_decay none.")
