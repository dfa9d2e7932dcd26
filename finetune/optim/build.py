"""Optimizers by name, and the learning rate of each step."""

import contextlib
import importlib.util
import math
import re
import warnings
from collections.abc import Generator, Sequence
from typing import Any, cast

import torch

from finetune.config.optim import OptimConfig
from finetune.extras import install_command
from finetune.import_named import import_named
from finetune.optim.groups import ParamGroup
from finetune.optim.per_parameter import PerParameterOptimizer


def check_optimizer(config: OptimConfig) -> None:
    """Raise ValueError if the optimizer's package is missing."""
    package = re.split("[.:]", config.facts.place)[0]
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


def optimizer_named(groups: list[dict[str, object]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer named by config.name."""
    arguments = {"weight_decay": config.weight_decay, **config.facts.arguments}
    if config.facts.has_betas:
        arguments["betas"] = (config.beta1, config.beta2)
    # run/device.py warns of paging without a GPU before the run; this sentence would come at the first step.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    optimizer = import_named(config.facts.place)(groups, **arguments)
    if config.facts.averages_weights:
        optimizer.train()
    return optimizer


def as_dict(group: ParamGroup) -> dict[str, object]:
    """Return a group in the form that torch's optimizers accept."""
    decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
    rates = {"lr": group.lr, "peak_lr": group.lr}
    table = {"orthogonal": False} if group.is_table else {}
    return {"name": group.name, "params": list(group.parameters), **rates, **decay, **table}


def learning_rate_factor(step: int, config: OptimConfig, steps: int) -> float:
    """Return the share of the peak learning rate at step 0 .. steps - 1. It is a linear warm-up, then the schedule's
    shape. The first step of a warm-up over W steps takes 1 / W; cosine and linear would reach final_lr_ratio at the
    step after the last, so no step is wasted at rate 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    shapes = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}
    shape = shapes[config.schedule]
    return shape if config.schedule == "constant" else config.final_lr_ratio + (1 - config.final_lr_ratio) * shape


@contextlib.contextmanager
def evaluation_weights(optimizer: torch.optim.Optimizer, config: OptimConfig) -> Generator[None]:
    """Load a schedule-free optimizer's averaged weights within the context. Afterwards the training weights are
    restored bit for bit: the optimizer's own eval() and train() compute one from the other with rounding, so a run
    would depend on when it was validated."""
    if not config.facts.averages_weights:
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [p.detach().clone() for p in parameters]
    averaging = cast("Any", optimizer)  # eval and train are schedulefree's own methods
    averaging.eval()
    try:
        yield
    finally:
        averaging.train()
        with torch.no_grad():
            for parameter, values in zip(parameters, saved, strict=True):
                parameter.copy_(values)
