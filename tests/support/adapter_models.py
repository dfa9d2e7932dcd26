"""Adapters as if trained, on a tiny model, without a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.config.outputs import OutputConfig
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig
from finetune.export.metadata import RunFacts
from finetune.methods.base import TrainedModel
from finetune.methods.lora.method import LoRA
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelFamily, ModelSource, Network
from finetune.optim.ema import load_trained_state, trained_state

FAMILY = StableDiffusion()

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 6.5, "init": "gaussian"},
    "convolutions and patterns": {
        "rank": 4,
        "conv": True,
        "rank_pattern": ("attn2=2", "conv1=3"),
        "alpha_pattern": (r"^text_encoders\.0=1.5", "attn1=3"),
    },
    "rslora": {"rank": 4, "alpha": 6.5, "rslora": True, "rank_pattern": ("attn2=2",)},
    "dora": {"rank": 4, "alpha": 6.5, "dora": True, "conv": True},
    "orthogonal": {"rank": 4, "init": "orthogonal", "conv": True},
    "pissa": {"rank": 4, "alpha": 6.5, "init": "pissa", "conv": True, "rank_pattern": ("attn2=2",)},
    "olora": {"rank": 4, "init": "olora"},
    "loha": {"kind": "loha", "rank": 3, "alpha": 2.0, "conv": True, "rank_pattern": ("attn2=2",)},
    "lokr": {"kind": "lokr", "rank": 1, "alpha": 5.0, "factor": 4, "conv": True, "rank_pattern": ("attn2=64",)},
    "oft": {"kind": "oft", "block_size": 4},
}


@dataclass(frozen=True)
class Exported:
    """A model as if trained, and the files written of it."""

    model: TrainedModel
    differences: dict[str, float]
    folder: Path

    def tensors(self) -> dict[str, Tensor]:
        return safetensors.torch.load_file(self.folder / "style.safetensors")

    def metadata(self) -> dict[str, str]:
        with safe_open(self.folder / "style.safetensors", framework="pt") as file:
            return file.metadata()


def fresh(source: ModelSource, family: ModelFamily = FAMILY) -> Components:
    """The base model, frozen."""
    components = family.load(source)
    for part in (components.denoiser, *components.text_encoders):
        part.requires_grad_(False)
    return components


def attached(
    components: Components,
    config: LoRAConfig,
    *,
    seed: int = 0,
    text_encoder: bool = True,
    family: ModelFamily = FAMILY,
) -> Network:
    """The network with adapters at their start."""
    method = LoRA(config, text_encoder)
    network = method.network(family, components)
    method.attach(network, seed)
    return network


def moved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as if training had moved them."""
    generator = torch.Generator().manual_seed(1)
    return {name: value + torch.randn(value.shape, generator=generator) * 0.05 for name, value in state.items()}


def trained_model(
    source: ModelSource, config: LoRAConfig, dtype: Any = "fp32", family: ModelFamily = FAMILY
) -> TrainedModel:
    """Make the export's input, with adapters on denoiser and text encoder."""
    components = fresh(source, family)
    network = attached(components, config, family=family)
    state = moved(trained_state(network))
    load_trained_state(network, state)
    options = LoRATrainConfig(
        model=ModelConfig(source.location),
        data=DataConfig("pictures"),
        output=OutputConfig(Path("out"), name="style", dtype=dtype),
        train=LoopConfig(text_encoder=True),
        cache=CacheConfig(text=False),
        lora=config,
    )
    facts = RunFacts("ab" * 32, 3, 1, 2, 6, 0, {1: 6}, {}, "pictures", "cd" * 32, {}, "no", 1.0, 2.0)
    objective = family.objective(components.scheduler, LossConfig())
    return TrainedModel(family, source, components, network, objective, state, options, facts)
