"""Optimizers by name, and the learning rate as a pure function of the step."""

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from finetune.config.optim import OptimConfig
from finetune.extras import install_command
from finetune.optim.groups import ParamGroup
from finetune.optim.per_parameter import PerParameterOptimizer

PACKAGES = {
    "adamw8bit": "bitsandbytes",
    "paged_adamw8bit": "bitsandbytes",
    "lion8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "adamw_schedule_free": "schedulefree",
}


def check_optimizer(config: OptimConfig) -> None:
    """Raise ValueError if the optimizer's package is missing."""
    if config.name in PACKAGES:
        package = PACKAGES[config.name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"optim.name: {config.name} needs {package}, which is not installed. Run: {install_command(package)}"
            )


def build_optimizer(param_groups: Sequence[ParamGroup], config: OptimConfig, seed: int = 0) -> torch.optim.Optimizer:
    """Return the configured optimizer of the groups. `seed` is that of rounding."""
    groups = [as_dict(group) for group in param_groups]
    optimizer = optimizer_named(groups, config)
    if config.weights == "fp32" and not config.in_backward:
        return optimizer
    return PerParameterOptimizer(optimizer, config.weights, seed, in_backward=config.in_backward)


def optimizer_named(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer named by config.name."""
    betas = (config.beta1, config.beta2)
    adam: dict[str, Any] = {"betas": betas, "weight_decay": config.weight_decay}
    match config.name:
        case "adamw":
            return torch.optim.AdamW(groups, fused=True, **adam)
        case "adafactor":
            return torch.optim.Adafactor(groups, weight_decay=config.weight_decay)
        case "prodigy":
            from prodigyopt import Prodigy

            return Prodigy(groups, safeguard_warmup=True, use_bias_correction=True, **adam)
        case "adamw_schedule_free":
            from schedulefree import AdamWScheduleFree

            optimizer = AdamWScheduleFree(groups, **adam)
            optimizer.train()
            return optimizer
        case _:
            from bitsandbytes import optim as bnb

            kinds = {"adamw8bit": bnb.AdamW8bit, "paged_adamw8bit": bnb.PagedAdamW8bit, "lion8bit": bnb.Lion8bit}
            # devices.py has a sentence of our own about paging without a GPU; this one would come at the first step.
            warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
            return kinds[config.name](groups, **adam)


def as_dict(group: ParamGroup) -> dict[str, Any]:
    """Return a group in the form that torch's optimizers accept."""
    decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
    rates = {"lr": group.lr, "peak_lr": group.lr}
    return {"name": group.name, "params": list(group.parameters), **rates, **decay}


def learning_rate_factor(step: int, config: OptimConfig, steps: int) -> float:
    """Return the share of the peak learning rate at step 0 .. steps - 1.

    It is a linear warm-up, then the schedule's shape. The first step of a warm-up over W steps takes 1 / W, and cosine
    and linear would take final_lr_ratio at the step after the last, so no step is wasted at rate 0.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    shape = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
    }[config.schedule]
    return shape if config.schedule == "constant" else config.final_lr_ratio + (1 - config.final_lr_ratio) * shape


@contextlib.contextmanager
def evaluation_weights(optimizer: torch.optim.Optimizer, config: OptimConfig) -> Iterator[None]:
    """Load a schedule-free optimizer's averaged weights into the model for a while.

    Afterwards the training weights are restored bit for bit. Its own eval() and train() compute one from the other with
    rounding, which would make a run depend on when it was validated.
    """
    if config.name != "adamw_schedule_free":
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [p.detach().clone() for p in parameters]
    optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]  (schedulefree's own method)
    try:
        yield
    finally:
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad():
            for parameter, values in zip(parameters, saved, strict=True):
                parameter.copy_(values)
