"""Compiled blocks of denoisers (torch.compile), in training steps alone.

Whole denoisers are not compiled: with torch 2.13 on a CPU a whole U-Net got no gradient behind its upsampling layers,
without an error.

Everything else, from validation to scores, runs the layers one by one. It switches adapters and strengths, and every
change would be compiled again.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import nn

from finetune.models.blocks import named_blocks
from finetune.models.family import ModelFamily
from finetune.models.interfaces import Denoiser

Compile = Literal["none", "blocks"]
MOST_SHAPES = 64
"""Sizes of images that are compiled, each by itself. dynamo's usual limit of 8 would be fewer than a run's buckets."""


def refuse_without_compiler(how: Compile, device: torch.device) -> None:
    """Raise ValueError where the CPU's code cannot be compiled."""
    named = os.environ.get("CXX", "g++")
    if how != "none" and device.type == "cpu" and shutil.which(named) is None:
        raise ValueError(
            f"train.compile: got {how}, but there is no C++ compiler ({named}), which compiled code for a CPU needs. "
            "Install g++, or use --train.compile none."
        )


def compile_denoiser(family: ModelFamily, denoiser: Denoiser, how: Compile) -> None:
    """Mark the denoiser's blocks for compilation. Names of weights stay as they are."""
    if how == "none":
        return
    torch._dynamo.config.recompile_limit = MOST_SHAPES  # pyright: ignore[reportAttributeAccessIssue]
    torch.compiler.set_stance("force_eager")
    # Of diffusers' check of torch's version, whose answer does not change.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    for module in repeated_blocks(family, denoiser):
        module.compile(dynamic=False)


def repeated_blocks(family: ModelFamily, denoiser: Denoiser) -> Sequence[nn.Module]:
    """List the blocks that a denoiser consists of. Raises ValueError where their class is not known."""
    names = named_blocks(family, denoiser)
    found = [module for module in denoiser.modules() if type(module).__name__ in names]
    if not found:
        raise ValueError(
            f"train.compile: got blocks, but {type(denoiser).__name__} does not name its repeated blocks. Use none."
        )
    return found


@contextlib.contextmanager
def compiled_step(how: Compile) -> Generator[None]:
    """Run what is marked as compiled code within the context."""
    if how == "none":
        yield
        return
    with torch.compiler.set_stance("default"):
        yield
