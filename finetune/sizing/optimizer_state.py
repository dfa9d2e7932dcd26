"""Bytes that optimizers keep for each weight."""

import math
from collections.abc import Iterable

from torch import nn

from finetune.config.optim import OptimConfig, OptimizerFacts
from finetune.run.device import TRAINED_DTYPES

FLOAT32 = 4


def state_bytes(parameters: Iterable[nn.Parameter], config: OptimConfig) -> int:
    """Count the bytes of the state after a step, without single numbers."""
    num_parameters = [tuple(parameter.shape) for parameter in parameters]
    compensation = TRAINED_DTYPES[config.weights].itemsize if config.weights == "bf16_kahan" else 0
    return round(sum(one_state(shape, config.facts) + compensation * math.prod(shape) for shape in num_parameters))


def one_state(shape: tuple[int, ...], facts: OptimizerFacts) -> float:
    """Count the bytes for a tensor of weights."""
    num = math.prod(shape)
    if facts.is_factored and len(shape) > 1:
        return FLOAT32 * (num // shape[-1] + num // shape[-2])
    if facts.is_for_matrices and len(shape) > 1 and 1 < shape[0] < num:
        return FLOAT32 * num  # a momentum alone
    if num < facts.float32_below:
        return FLOAT32 * int(facts.state_bytes) * num
    return facts.state_bytes * num
