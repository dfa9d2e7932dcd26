"""The denoiser sharded over processes (FSDP2), block by block.

Only the denoiser is sharded. Text encoders that train are small beside it: every process holds them whole, and their
gradients are averaged in the step. VAE and frozen text encoders are outside of the network.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from finetune.config.optim import OPTIMIZERS
from finetune.config.train import TrainConfig
from finetune.models.compiled import named_blocks
from finetune.models.family import AutoencoderNetwork, ModelFamily, Network
from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import either
from finetune.processes.sharding_request import Sharding

BY_HAND = "Or launch with accelerate_configs/multi_gpu.yaml, where every process holds the whole model."


def refuse_unsharded(config: TrainConfig, precision: str) -> None:
    """Raise ValueError for options that do not go with a sharded denoiser."""
    if found := list(problems(config, precision)):
        raise ValueError("\n".join([*found, BY_HAND]))


def problems(config: TrainConfig, precision: str) -> Iterator[str]:
    """Yield a sentence for each option."""
    if precision == "fp16":
        yield "mixed_precision: got fp16 with FSDP, expected bf16 or no."
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


def shard(
    network: Network | AutoencoderNetwork, family: ModelFamily, accelerator: Accelerator, sharding: Sharding
) -> None:
    """Shard the denoiser's weights onto the devices, block by block. All processes take part."""
    if not isinstance(network, Network):
        raise ValueError(
            "FSDP: this stage trains an autoencoder, which is not sharded. Launch it with "
            "accelerate_configs/multi_gpu.yaml, and the stage denoiser with FSDP."
        )
    device, denoiser = accelerator.device, network.denoiser
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    with explaining_out_of_memory(
        "while the denoiser was sharded", "Launch more processes, or train with --train.gradient_checkpointing true."
    ):
        for module in [*reversed(sharded_blocks(family, denoiser)), denoiser]:
            fully_shard(module, mesh=mesh, reshard_after_forward=sharding.reshards)
        network.text_encoders.to(device)
    for module in denoiser.modules():
        if isinstance(module, FSDPModule):  # Which weights train is read when they are first gathered: peft's switch
            module.unshard()  # of adapters, as for predictions of the base model, changes it for a while.
            module.reshard()


def sharded_blocks(family: ModelFamily, denoiser: nn.Module) -> Sequence[nn.Module]:
    """List the blocks of a denoiser, outer ones first. U-Nets have large ones beside those that repeat."""
    names = {*named_blocks(family, denoiser), *(getattr(denoiser, "_no_split_modules", None) or ())}
    return [module for module in denoiser.modules() if type(module).__name__ in names]


def start_device(accelerator: Accelerator, sharding: Sharding | None) -> torch.device:
    """Return where a network is put together. One that will be sharded may be larger than the accelerator."""
    return accelerator.device if sharding is None else torch.device("cpu")
