"""The denoiser sharded over processes (FSDP2), block by block.

Only the denoiser is sharded. Text encoders that train are small beside it: every process holds them whole, and their
gradients are averaged in the step. VAE and frozen text encoders are outside of the network.
"""

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from finetune.models.blocks import sharded_blocks
from finetune.models.family import AutoencoderNetwork, ModelFamily, Network
from finetune.out_of_memory import explaining_out_of_memory
from finetune.processes.sharding_request import Sharding


def shard(
    network: Network | AutoencoderNetwork, family: ModelFamily, device: torch.device, num: int, sharding: Sharding
) -> None:
    """Shard the denoiser's weights over `num` processes, block by block. All take part."""
    if not isinstance(network, Network):
        raise ValueError(
            "FSDP: this stage trains an autoencoder, which is not sharded. Launch it with "
            "accelerate_configs/multi_gpu.yaml, and the stage denoiser with FSDP."
        )
    denoiser = network.denoiser
    mesh = init_device_mesh(device.type, (num,))
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


def start_device(accelerator: Accelerator, sharding: Sharding | None) -> torch.device:
    """Return where a network is put together. One that will be sharded may be larger than the accelerator."""
    return accelerator.device if sharding is None else torch.device("cpu")
