"""The options that make a run fit a device, by cost."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from finetune.config.train import TrainConfig
from finetune.planning.ladder import LADDER, Options, Rung, with_rung
from finetune.planning.sharded_options import sharding_conflicts
from finetune.sizing.memory import MemoryEstimator

LEAST_SAVED = 0.01
"""Share of all bytes that a rung has to save."""


@dataclass(frozen=True)
class Step:
    """A rung that saves memory, on top of those before it."""

    rung: Rung
    options: Options
    saved: int
    most: int
    """Bytes on the device after it."""


def climb(estimator: MemoryEstimator, config: TrainConfig, limit: int | None) -> Iterator[Step]:
    """Yield the rungs that save memory. The last is the one with which the run fits `limit` bytes."""
    most = estimator.memory(config).most
    for rung in LADDER:
        if limit is not None and most <= limit:
            return
        is_bf16 = estimator.precision.dtype == torch.bfloat16
        changed = with_rung(config, rung, num_processes=estimator.num_processes, is_bf16=is_bf16)
        if changed is None or (estimator.sharding is not None and any(sharding_conflicts(changed))):
            continue
        now = estimator.memory(changed).most
        if most - now < LEAST_SAVED * most:
            continue
        yield Step(rung, rung.options(config), most - now, now)
        config, most = changed, now
