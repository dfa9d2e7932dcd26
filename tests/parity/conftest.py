"""Adapters of every kind on a tiny model, exported once."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from finetune.config.lora import LoRAConfig
from finetune.methods.lora.method import LoRA
from finetune.models.family import ModelSource
from tests.support.adapter_models import KINDS, Exported, trained_model

Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(str(tiny_model))


@pytest.fixture(scope="session")
def export(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a kind, or return what was exported before."""

    @functools.cache
    def exported(kind: str, dtype: Literal["fp16", "bf16", "fp32"] = "fp32", source: ModelSource = source) -> Exported:
        config = LoRAConfig(**KINDS[kind])
        model, folder = trained_model(source, config, dtype), tmp_path_factory.mktemp("export")
        found = LoRA(config).export(model, folder)
        return Exported(model, {path.name: difference for path, difference in found.items()}, folder)

    return exported
