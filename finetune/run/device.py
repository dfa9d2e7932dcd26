"""The Accelerator of a run, and what the machine cannot do."""

import os
from collections.abc import Iterator
from datetime import timedelta
from importlib import metadata
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    KwargsHandler,
)
from torch.distributed import PrefixStore, Store, register_rendezvous_handler, rendezvous
from torch.distributed.distributed_c10d import _get_default_store

from finetune import __version__
from finetune.config.parse.dump import as_flat
from finetune.config.train import TrainConfig
from finetune.models.compiled import refuse_without_compiler
from finetune.models.kernels import refuse_without_kernel, use_tf32
from finetune.processes.launch_request import launcher, refuse_launch
from finetune.processes.meeting import meet
from finetune.processes.ranks import LostProcess, is_lost_connection, join, refuse_differences
from finetune.processes.sharding_request import hidden_from_accelerate, is_requested
from finetune.run.threads import share_cores

PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"
COMPUTE_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINED_DTYPES = {"fp32": torch.float32, "bf16_stochastic": torch.bfloat16, "bf16_kahan": torch.bfloat16}
"""By optim.weights."""
PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "peft")
"""Of which all processes of a job need the same versions."""
SCHEME = "sd-finetune-start"
"""The way in which processes find each other: `find_others`."""
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def make_accelerator(config: TrainConfig, data_fingerprint: str) -> Accelerator:
    """The Accelerator that `accelerate launch` configured, in contact with the other processes. Raises ValueError for
    what this machine cannot run, and where the processes were started with different options, data or versions."""
    refuse_launch(os.environ, launcher()[0])
    share_cores()
    if os.environ.get(PRECISION_VARIABLE) == "fp16" and not torch.cuda.is_available():
        raise ValueError(
            "mixed_precision: got fp16 in the accelerate config, but no GPU is there. Use bf16 or no on a CPU."
        )
    # split_batches: the sampler's batches are global, each process takes its part.
    loading = DataLoaderConfiguration(split_batches=True, dispatch_batches=False, even_batches=False, non_blocking=True)
    seconds = config.train.timeout_seconds
    # With NCCL a watchdog thread ends a process whose collective takes longer: TORCH_NCCL_ASYNC_ERROR_HANDLING is on by
    # default (read in torch 2.13, not run on a GPU).
    group = InitProcessGroupKwargs(init_method=f"{SCHEME}://", timeout=timedelta(seconds=seconds))
    # No buffer of a denoiser changes in training, and gradients need not be copied out of what is exchanged.
    handlers: list[KwargsHandler] = [
        group,
        DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
    ]
    if is_requested(os.environ):  # else every process would keep the whole model in 16 bits until the forward pass ends
        handlers.append(AutocastKwargs(cache_enabled=False))
    try:
        # Without cpu=True, Accelerate 1.15 makes of several CPU processes so many single ones.
        with hidden_from_accelerate():  # the denoiser is sharded in setup, the same way on all devices
            accelerator = Accelerator(
                cpu=not torch.cuda.is_available(), dataloader_config=loading, kwargs_handlers=handlers
            )
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise LostProcess(
            f"the processes of this job did not find each other within {seconds} s (train.timeout_seconds). Look at "
            "the output of the others, and at the address and port of the first process."
        ) from error
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"num_processes: {launched} processes were launched, but Accelerate formed a group of "
            f"{accelerator.num_processes}. Use one of accelerate_configs/."
        )
    if accelerator.distributed_type not in SUPPORTED:
        raise ValueError(
            f"distributed_type: got {accelerator.distributed_type.value} in the accelerate config, which is not "
            "supported yet. Use one of accelerate_configs/."
        )
    if accelerator.num_processes > 1:
        join(_get_default_store(), accelerator.process_index, accelerator.num_processes, seconds)
    versions = {f"version of {name}": metadata.version(name) for name in PACKAGES}
    setup = {"version of sd-finetune": __version__, "mixed_precision": accelerator.mixed_precision}
    refuse_differences(as_flat(config) | versions | setup | {"data": data_fingerprint})
    return accelerator


def find_others(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """Yield a store, the rank, and the number of processes. It is the launcher's, under a name of this start:
    without one, restarted processes try to connect with those before them (torch 2.13)."""
    store, rank, size = next(rendezvous(url.replace(SCHEME, "env", 1), timeout=timeout, **options))
    yield PrefixStore(meet(store, rank, size, timeout.total_seconds()), store), rank, size


register_rendezvous_handler(SCHEME, find_others)


def end_group() -> None:
    """End the process group, which the stages of a recipe share. Does nothing for one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def refuse_unfit(accelerator: Accelerator, config: TrainConfig) -> None:
    """Raise ValueError for options that do not fit launch or device."""
    found = []
    if config.optim.weights != "fp32" and accelerator.mixed_precision != "bf16":
        found.append(
            f"optim.weights: got {config.optim.weights} with mixed_precision {accelerator.mixed_precision}, expected "
            "bf16 in the accelerate config (accelerate launch --mixed_precision bf16). Or use fp32 weights."
        )
    if config.optim.in_backward and accelerator.num_processes > 1:
        found.append(
            f"optim.in_backward: got true with {accelerator.num_processes} processes, which have to add up their "
            "gradients before a weight is updated. Launch one process, or set it to false."
        )
    if config.optim.in_backward and accelerator.mixed_precision == "fp16":
        found.append(
            "optim.in_backward: got true with mixed_precision fp16, whose scaled gradients have to be checked before a "
            "weight is updated. Use bf16 or no."
        )
    if found:
        raise ValueError("\n".join(found))
    refuse_without_compiler(config.train.compile, accelerator.device)
    refuse_without_kernel(config.train.attention, accelerator.device, COMPUTE_DTYPES[accelerator.mixed_precision])
    if config.train.tf32:
        use_tf32(accelerator.device)


def device_warnings(accelerator: Accelerator, config: TrainConfig) -> list[str]:
    """Return one sentence per setting that this machine changes."""
    found = []
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu and PRECISION_VARIABLE in os.environ and os.environ.get("ACCELERATE_USE_CPU", "false").lower() != "true":
        found.append("no GPU found: this run uses the CPU. accelerate_configs/cpu.yaml sets it on purpose.")
    if on_cpu and (same := config.optim.facts.same_on_cpu):
        found.append(
            f"optim.name {config.optim.name} pages between GPU and CPU memory; on a CPU it is the same as {same}."
        )
    return found
