"""The blocks of denoisers that are compiled or sharded one by one."""

from collections.abc import Sequence

from torch import nn

from finetune.models.family import ModelFamily


def named_blocks(family: ModelFamily, denoiser: nn.Module) -> Sequence[str]:
    """List the classes of the repeated blocks, where they are known."""
    return family.repeated_blocks or getattr(denoiser, "_repeated_blocks", None) or ()


def sharded_blocks(family: ModelFamily, denoiser: nn.Module) -> Sequence[nn.Module]:
    """List the blocks of a denoiser, outer ones first. U-Nets have large ones beside those that repeat."""
    names = {*named_blocks(family, denoiser), *(getattr(denoiser, "_no_split_modules", None) or ())}
    return [module for module in denoiser.modules() if type(module).__name__ in names]
