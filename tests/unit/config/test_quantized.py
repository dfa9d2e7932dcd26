from dataclasses import replace
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
OFFLOADED = ModelConfig("m", offload=True)
OFFLOADED_INT8 = ModelConfig("m", quantization="int8", offload=True)
BASE: dict[str, Any] = {"data": DataConfig("d"), "output": OutputConfig(Path("o"))}
SUBJECT: dict[str, Any] = BASE | {"data": DreamBoothDataConfig("d"), "instance": InstanceConfig("a photo of sks dog")}
SUBJECT |= {"prior": PriorConfig(prompt="a photo of a dog")}


@pytest.mark.parametrize("model", [QUANTIZED, OFFLOADED, OFFLOADED_INT8])
def test_adapters_and_tokens_train_beside_weights_that_are_quantised_or_in_host_memory(model: ModelConfig) -> None:
    for init, dora in (("orthogonal", False), ("default", True)):
        LoRATrainConfig(model, **BASE, lora=LoRAConfig(init=init, dora=dora))  # pyright: ignore[reportArgumentType]
    TextualInversionTrainConfig(model, **BASE, tokens=TokensConfig(("<new>",)))
    DreamBoothTrainConfig(model, **SUBJECT)


@pytest.mark.parametrize(
    ("model", "says"),
    [(QUANTIZED, r"model\.quantization: got .* cannot be trained"), (OFFLOADED, r"model\.offload")],
)
def test_runs_that_train_all_weights_refuse_such_ones(model: ModelConfig, says: str) -> None:
    for kind, options in ((FullTrainConfig, BASE), (DreamBoothTrainConfig, SUBJECT | {"method": "full"})):
        with pytest.raises(ValueError, match=says):
            kind(model=model, **options)
    with pytest.raises(ValueError, match=says):
        PretrainConfig(model=replace(model, source="new"), **BASE)


@pytest.mark.parametrize(("model", "says"), [(QUANTIZED, r"lora\.init"), (OFFLOADED, r"model\.offload")])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_that_take_a_part_of_the_weights_are_refused(init: Any, model: ModelConfig, says: str) -> None:
    for kind, options in ((LoRATrainConfig, BASE), (DreamBoothTrainConfig, SUBJECT)):
        with pytest.raises(ValueError, match=says):
            kind(model=model, **options, lora=LoRAConfig(init=init))


@pytest.mark.parametrize("kind", ["none", "int8", "fp8"])
def test_double_quantisation_is_an_option_of_nf4(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.double_quantization"):
        LoRATrainConfig(ModelConfig("m", quantization=kind, double_quantization=False), **BASE)
    ModelConfig("m", quantization="nf4", double_quantization=False)
