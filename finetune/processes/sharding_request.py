"""The launcher's request to shard the denoiser (FSDP2); torch-free.

Accelerate makes it FSDP on GPUs alone, and on CPUs plain DDP without a word. Here the run shards the denoiser itself,
the same way on both, and follows those of the launcher's settings that mean something for one denoiser.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARIABLE = "ACCELERATE_USE_FSDP"
FOLLOWED = {
    "FSDP_VERSION": (("2",), "fsdp_version", "2 (FSDP2, torch's fully_shard)"),
    "FSDP_RESHARD_AFTER_FORWARD": (("true", "false"), "fsdp_reshard_after_forward", "true or false"),
    "FSDP_AUTO_WRAP_POLICY": (
        ("transformer_based_wrap",),
        "fsdp_auto_wrap_policy",
        "TRANSFORMER_BASED_WRAP: the denoiser's blocks are sharded one by one",
    ),
    "FSDP_OFFLOAD_PARAMS": (("false",), "fsdp_offload_params", "false, which is what is supported"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        ("false",),
        "fsdp_activation_checkpointing",
        "false, with --train.gradient_checkpointing true",
    ),
    "FSDP_TRANSFORMER_CLS_TO_WRAP": ((), "fsdp_transformer_layer_cls_to_wrap", "none: the blocks are known"),
}
"""The accepted values of each variable, its name in the accelerate config, and what is expected."""


@dataclass(frozen=True)
class Sharding:
    """How the denoiser is sharded."""

    reshards: bool
    """A block's weights are freed after the forward pass, and gathered again for the backward pass."""


def is_requested(environment: Mapping[str, str]) -> bool:
    """Tell if the accelerate config asks for FSDP."""
    return environment.get(VARIABLE, "false").lower() in ("true", "1", "yes")


def sharding_problems(environment: Mapping[str, str]) -> list[str]:
    """List settings that would not be followed."""
    if not is_requested(environment):
        return []
    return [
        f"{name}: got {environment[variable]} in the accelerate config, expected {expected}."
        for variable, (accepted, name, expected) in FOLLOWED.items()
        if environment.get(variable, "") and environment[variable].lower() not in accepted
    ]


def requested_sharding(environment: Mapping[str, str], num_processes: int) -> Sharding | None:
    """Return how to shard. None where that was not asked for, or one process has all."""
    if not is_requested(environment) or num_processes == 1:
        return None
    return Sharding(environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true")


@contextlib.contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Hide the request within the context, in which Accelerate is set up."""
    value = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[VARIABLE] = value
