"""Options that do not go with a sharded denoiser (FSDP2); torch-free."""

from collections.abc import Iterator

from finetune.config.optim import OPTIMIZERS
from finetune.config.train import TrainConfig
from finetune.plurals import either

BY_HAND = "Or launch with accelerate_configs/multi_gpu.yaml, where every process holds the whole model."


def refuse_unsharded(config: TrainConfig, precision: str) -> None:
    """Raise ValueError for options that do not go with a sharded denoiser."""
    found = list(sharding_conflicts(config))
    if precision == "fp16":
        found.insert(0, "mixed_precision: got fp16 with FSDP, expected bf16 or no.")
    if found:
        raise ValueError("\n".join([*found, BY_HAND]))


def sharding_conflicts(config: TrainConfig) -> Iterator[str]:
    """Yield a sentence for each option."""
    if not config.optim.facts.shards:
        known = either([name for name, facts in OPTIMIZERS.items() if facts.shards])
        yield f"optim.name: got {config.optim.name} with FSDP, expected {known}: it needs whole weights."
    if config.optim.weights != "fp32":
        yield f"optim.weights: got {config.optim.weights} with FSDP, expected fp32."
    if config.train.ema_decay is not None and config.train.ema_device == "cpu":
        yield "train.ema_device: got cpu with FSDP, expected same: each process averages its own part."
    if config.model.quantization != "none":
        yield f"model.quantization: got {config.model.quantization} with FSDP, expected none."
    if config.model.offload:
        yield "model.offload: got true with FSDP, expected false: each process holds a part of the weights."
    if config.train.compile != "none":
        yield f"train.compile: got {config.train.compile} with FSDP, expected none."
    if config.train.channels_last:
        yield "train.channels_last: got true with FSDP, which takes apart weights in torch's usual layout alone."
