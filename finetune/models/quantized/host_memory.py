"""Pinned host memory, which a GPU copies from on its own."""

import torch
from torch import Tensor

BLOCK = 2**30
ALIGNMENT = 256


class PinnedBlocks:
    """Large blocks of pinned memory that layers share. torch rounds every pinned allocation up to a power of two, which
    for the layers of a model adds up to far more than their bytes. A block is such a power."""

    def __init__(self, *, pinned: bool = True, block: int = BLOCK) -> None:
        self.pinned, self.size = pinned, block
        self.block, self.used = torch.empty(0, dtype=torch.uint8), 0

    def keep(self, value: Tensor) -> Tensor:
        """Return the bytes, copied into a block."""
        num = value.numel()
        if self.used + num > len(self.block):
            self.block = torch.empty(max(self.size, num), dtype=torch.uint8, pin_memory=self.pinned)
            self.used = 0
        kept = self.block[self.used : self.used + num].view(value.shape)
        self.used += -(-num // ALIGNMENT) * ALIGNMENT
        return kept.copy_(value)
