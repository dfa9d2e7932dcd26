from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.config.train import OutputConfig
from finetune.run.device import make_accelerator

CONFIG = LoRATrainConfig(ModelConfig("model"), DataConfig("images"), OutputConfig(Path("out")))


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """Accelerate keeps the first settings of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    assert PartialState._shared_state == {}


@pytest.mark.parametrize("is_sharded", [True, False])
@pytest.mark.usefixtures("no_accelerator")
def test_sharded_weights_are_cast_for_a_block_alone(monkeypatch: pytest.MonkeyPatch, is_sharded: bool) -> None:
    """Kept casts would be the whole model on every process."""
    launch = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "true"}
    launch |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if is_sharded else {}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator(CONFIG, "data")
    with accelerator.autocast():
        assert torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled() is not is_sharded
