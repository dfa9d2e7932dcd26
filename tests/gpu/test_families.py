"""A LoRA step of each published model at full size, random weights."""

import math

import pytest
import torch

from benchmarks.family_steps import exact, tiny
from benchmarks.model_sizes import MODELS, Model, memory, on_meta
from finetune.models import FAMILIES

REGISTERED = [model for model in MODELS if model.family in FAMILIES]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", REGISTERED, ids=[model.name for model in REGISTERED])
def test_a_step_fits_beside_the_weights(model: Model) -> None:
    weights = memory(on_meta(model.parts[0]))["bf16"]
    if torch.cuda.get_device_properties(0).total_memory < 1.5 * weights + 6e9:
        pytest.skip(f"{weights / 1e9:.0f} GB of weights do not fit on this device with a step")
    torch.cuda.empty_cache()
    found = exact(model, batch_size=1, rank=16, steps=2)
    print(f"{model.name}: {found.peak_bytes / 1e9:.2f} GB, {1 / found.seconds:.2f} images per second")
    assert math.isfinite(found.loss)
    assert weights < found.peak_bytes < 1.5 * weights + 6e9


@pytest.mark.parametrize("name", FAMILIES)
def test_the_benchmark_takes_steps_of_tiny_models_on_the_cpu(name: str) -> None:
    found = tiny(name, batch_size=2, rank=4, steps=1)
    assert math.isfinite(found.loss) and found.seconds > 0
