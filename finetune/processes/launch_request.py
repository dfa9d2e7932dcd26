"""Refusal of launcher settings that training does not follow; torch-free. Accelerate passes settings on in environment
variables. It then drops some without a warning, and gradient accumulation of its own divides every gradient."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

from finetune.processes.sharding_request import sharding_problems

PRECISION = "ACCELERATE_MIXED_PRECISION"
"""Always set by accelerate's launcher."""
MANY = "MASTER_ADDR"
"""Set by it for several processes, even if it then starts one (accelerate 1.15, without --multi_gpu)."""
PRECISIONS = ("no", "bf16", "fp16")
NOT_SUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism (parallelism_config)",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}


def launcher() -> tuple[Mapping[str, str], list[str]]:
    """Return the parent's environment and command line, empty where unknown."""
    import psutil  # not for --help, which is shown without what psutil needs of the system

    try:
        parent = psutil.Process(os.getppid())
        return parent.environ(), parent.cmdline()
    except psutil.Error:
        return os.environ, []


def unread_config(environment: Mapping[str, str], program: str) -> str | None:
    """Return a note on an unread accelerate config. Only `accelerate launch` reads it. None without one, and where the
    precision is given in the environment."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    file = Path(environment.get("HF_HOME") or cache).expanduser() / "accelerate" / "default_config.yaml"
    if PRECISION in environment or not file.is_file():
        return None
    try:
        content = cast(object, yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = None
    read = cast(dict[str, object], content) if isinstance(content, dict) else {}
    named = ", ".join(f"{key} {read[key]}" for key in ("mixed_precision", "num_processes", "use_cpu") if key in read)
    return (
        f"accelerate config: {file} ({named or 'of accelerate config'}) is read by accelerate launch alone; here mixed "
        f"precision is no, and processes are as they were started. To use it, run: accelerate launch -m {program} "
        "OPTIONS."
    )


def refuse_launch(environment: Mapping[str, str], of_launcher: Mapping[str, str]) -> None:
    """Refuse launcher settings that would be ignored or change the training. Raises one ValueError that names all.
    `of_launcher` is the environment that the launcher was started with."""
    found = [
        f"accelerate config: got a request for {name} ({variable}), which is not supported yet: every process would "
        "hold the whole model. Use one of accelerate_configs/."
        for variable, name in NOT_SUPPORTED.items()
        if environment.get(variable, "false").lower() in ("true", "1", "yes")
    ]
    found += sharding_problems(environment)
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        found.append(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS: got {steps}, which would divide every gradient by it. Unset the "
            f"variable, and use --train.accumulation {steps}."
        )
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        found.append(
            f"dynamo_backend: got {backend} in the accelerate config, but compilation is an option of the run. Use no, "
            "and --train.compile blocks."
        )
    precision = environment.get(PRECISION, "no")
    if precision not in PRECISIONS:
        found.append(f"mixed_precision: got {precision} in the accelerate config, expected no, bf16 or fp16.")
    device = environment.get("ACCELERATE_TORCH_DEVICE")
    if device is not None and environment.get("WORLD_SIZE", "1") != "1":
        found.append(
            f"ACCELERATE_TORCH_DEVICE: got {device}, which would put all {environment['WORLD_SIZE']} processes on one "
            "device. Unset it; CUDA_VISIBLE_DEVICES or --gpu_ids choose GPUs."
        )
    if PRECISION in environment and "WORLD_SIZE" not in environment and MANY in environment.keys() - of_launcher.keys():
        found.append(
            "num_processes: got 1 process, expected the several that were configured. Add --multi_gpu, and on CPUs the "
            "variable ACCELERATE_USE_CPU=true, as in accelerate_configs/cpu.yaml."
        )
    if found:
        raise ValueError("\n".join(found))
