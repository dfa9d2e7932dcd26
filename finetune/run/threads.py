"""Threads of torch on the CPU, shared by a job's processes. `accelerate launch` and torchrun set OMP_NUM_THREADS to 1
where the user gave nothing, so exports, averages in host memory and all training on a CPU would use one core."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import psutil
import torch

from finetune.processes.launch_request import launcher

LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Variables that a launcher sets."""
FLAGS = ("--num_cpu_threads_per_process", "--num-cpu-threads-per-process")


def share_cores() -> None:
    """Give this process its share of cores. A user's number stays."""
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not is_chosen() and (num_local > 1 or "OMP_NUM_THREADS" in os.environ):
        torch.set_num_threads(max(1, num_cores() // num_local))


@contextlib.contextmanager
def all_cores() -> Iterator[None]:
    """Use all cores within it, while other processes wait. A number that the user chose stays."""
    before = torch.get_num_threads()
    if not is_chosen():
        torch.set_num_threads(max(before, num_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_cores() -> int:
    """The physical cores that this process may use."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def is_chosen() -> bool:
    """Tell if the user set OMP_NUM_THREADS, not a launcher."""
    return is_users_choice(os.environ, *launcher())


def is_users_choice(own: Mapping[str, str], of_launcher: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Tell if the number of threads in this environment is the user's. `of_launcher` is the environment that the parent
    process was started with, `arguments` its command line."""
    if "OMP_NUM_THREADS" not in own:
        return False
    if own["OMP_NUM_THREADS"] != "1" or not any(name in own for name in LAUNCHERS):
        return True
    return "OMP_NUM_THREADS" in of_launcher or any(argument.startswith(FLAGS) for argument in arguments)
