from pathlib import Path
from typing import Any

import pytest

from finetune.config.dreambooth import DreamBoothDataConfig, DreamBoothTrainConfig, InstanceConfig, PriorConfig
from finetune.config.lora import LoRAConfig
from finetune.config.outputs import OutputConfig
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig, TokensConfig
from finetune.config.sections import DataConfig, ModelConfig

QUANTIZED = ModelConfig("m", quantization="nf4")
OFFLOADED = {"model": ModelConfig("m", offload=True)}
BASE: dict[str, Any] = {"model": QUANTIZED, "data": DataConfig("d"), "output": OutputConfig(Path("o"))}
SUBJECT: dict[str, Any] = BASE | {
    "data": DreamBoothDataConfig("d"),
    "instance": InstanceConfig("a photo of sks dog"),
    "prior": PriorConfig(prompt="a photo of a dog"),
}


def test_adapters_and_tokens_train_beside_quantised_weights() -> None:
    LoRATrainConfig(**BASE, lora=LoRAConfig(dora=True))
    LoRATrainConfig(**BASE, lora=LoRAConfig(init="orthogonal"))
    TextualInversionTrainConfig(**BASE, tokens=TokensConfig(("<new>",)))
    DreamBoothTrainConfig(**SUBJECT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FullTrainConfig(**BASE),
        lambda: DreamBoothTrainConfig(**SUBJECT, method="full"),
        lambda: PretrainConfig(**(BASE | {"model": ModelConfig("new", quantization="int8")})),
    ],
)
def test_runs_that_train_all_weights_refuse_quantised_ones(make: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.quantization: got .* cannot be trained"):
        make()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_that_take_a_part_of_the_weights_are_refused(init: Any) -> None:
    with pytest.raises(ValueError, match=r"lora\.init"):
        LoRATrainConfig(**BASE, lora=LoRAConfig(init=init))
    with pytest.raises(ValueError, match=r"lora\.init"):
        DreamBoothTrainConfig(**SUBJECT, lora=LoRAConfig(init=init))


@pytest.mark.parametrize("kind", ["none", "int8", "fp8"])
def test_double_quantisation_is_an_option_of_nf4(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.double_quantization"):
        LoRATrainConfig(**(BASE | {"model": ModelConfig("m", quantization=kind, double_quantization=False)}))
    ModelConfig("m", quantization="nf4", double_quantization=False)


def test_adapters_and_tokens_train_beside_weights_in_host_memory() -> None:
    LoRATrainConfig(**(BASE | OFFLOADED), lora=LoRAConfig(dora=True))
    LoRATrainConfig(**(BASE | {"model": ModelConfig("m", quantization="int8", offload=True)}))
    TextualInversionTrainConfig(**(BASE | OFFLOADED), tokens=TokensConfig(("<new>",)))
    DreamBoothTrainConfig(**(SUBJECT | OFFLOADED))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FullTrainConfig(**(BASE | OFFLOADED)),
        lambda: DreamBoothTrainConfig(**(SUBJECT | OFFLOADED), method="full"),
        lambda: PretrainConfig(**(BASE | {"model": ModelConfig("new", offload=True)})),
        lambda: LoRATrainConfig(**(BASE | OFFLOADED), lora=LoRAConfig(init="pissa")),
        lambda: DreamBoothTrainConfig(**(SUBJECT | OFFLOADED), lora=LoRAConfig(init="olora")),
    ],
)
def test_runs_that_change_the_weights_refuse_those_in_host_memory(make: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.offload"):
        make()
