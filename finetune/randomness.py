"""Noise, timesteps, crops and captions as functions of seed and position. Nothing here depends on earlier draws: a
resumed run, or one with another number of processes, uses the same positions and gets the same numbers. Generators are
PyTorch's CPU ones, so a GPU gets the same noise as a CPU."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream(seed: int, purpose: str, *position: int | str) -> int:
    """Return a 63-bit seed for one purpose at one position. Different purposes and positions do not collide."""
    text = "\0".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """Return a fresh CPU generator for one purpose at one position."""
    return torch.Generator().manual_seed(stream(seed, purpose, *position))


def uniform(seed: int, purpose: str, *position: int | str) -> float:
    """Return a number in [0, 1) with 53 random bits."""
    return (stream(seed, purpose, *position) >> 10) / 2**53


def noise_at(seed: int, positions: Sequence[int], shape: Sequence[int], draw: str = "") -> Tensor:
    """Draw float32 standard normal noise [B *shape], independent per position. It is independent per draw name, too."""
    purpose = f"noise {draw}" if draw else "noise"
    return torch.stack([torch.randn(*shape, generator=generator(seed, purpose, position)) for position in positions])


def uniform_at(seed: int, purpose: str, positions: Sequence[int]) -> Tensor:
    """Return float64 uniforms [B] in [0, 1), one per position."""
    return torch.tensor([uniform(seed, purpose, position) for position in positions], dtype=torch.float64)
