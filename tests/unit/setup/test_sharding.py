from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.optim import OptimConfig
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.config.train import LoopConfig, OutputConfig
from finetune.planning.sharded_options import refuse_unsharded

CONFIG = LoRATrainConfig(ModelConfig("model"), DataConfig("images"), OutputConfig(Path("out")))


def test_options_that_fit_are_accepted() -> None:
    refuse_unsharded(CONFIG, "bf16")
    refuse_unsharded(replace(CONFIG, optim=OptimConfig("adamw_schedule_free")), "no")


@pytest.mark.parametrize(
    ("changes", "precision", "words"),
    [
        ({}, "fp16", "got fp16 with FSDP, expected bf16 or no"),
        ({"optim": OptimConfig("muon")}, "no", "got muon with FSDP, expected adamw or adamw_schedule_free"),
        ({"optim": OptimConfig(weights="bf16_kahan")}, "bf16", "optim.weights: got bf16_kahan"),
        ({"train": LoopConfig(ema_decay=0.9, ema_device="cpu")}, "no", "train.ema_device: got cpu"),
        ({"train": LoopConfig(compile="blocks")}, "no", "train.compile: got blocks"),
        ({"model": ModelConfig("model", quantization="nf4")}, "bf16", "model.quantization: got nf4"),
        ({"model": ModelConfig("model", offload=True)}, "bf16", "model.offload: got true"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], precision: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}(.|\n)*multi_gpu.yaml"):
        refuse_unsharded(replace(CONFIG, **changes), precision)
