"""The noise of training: standard normal, or shaped by options. Axes: B batch, C channels, H W latent height and
width."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from finetune.config.loss import LossConfig


class Noise(Protocol):
    """A source of standard normal noise. The caller decides what it is a function of."""

    def __call__(self, shape: Sequence[int], draw: str = "") -> Tensor:
        """Draw noise [B *shape] for the shape of one sample. Each name of a draw gives independent noise."""
        ...


def training_noise(noise: Noise, clean: Tensor, options: LossConfig) -> tuple[Tensor, Tensor]:
    """Draw the noise of the target and that of the input. Both are [B C H W]. The second differs from the first by
    input perturbation alone (Input Perturbation Reduces Exposure Bias in Diffusion Models, arXiv 2301.11706, algorithm
    1: epsilon + gamma xi, with xi standard normal)."""
    shape = clean.shape[1:]
    drawn = nearest_noise(noise, clean, options.nearest_noise)
    if options.pyramid_noise:
        drawn = with_coarser_levels(drawn, noise, options.pyramid_noise)
    if options.offset_noise:
        drawn = drawn + options.offset_noise * noise((shape[0], 1, 1), "offset").to(drawn.device)
    if not options.input_perturbation:
        return drawn, drawn
    return drawn, drawn + options.input_perturbation * noise(shape, "perturbation").to(drawn.device)


def nearest_noise(noise: Noise, clean: Tensor, num: int) -> Tensor:
    """Choose the nearest of `num` draws for each sample. That is by Euclidean distance to its latents; draws are [B C H
    W].

    Improved Immiscible Diffusion (arXiv 2505.18521, KNN noise selection), which needs no assignment between the samples
    of a batch as Immiscible Diffusion (arXiv 2406.12303) does: each sample chooses alone, so that neither the batch nor
    the number of processes matters.
    """
    draws = ["", *(f"candidate {number}" for number in range(1, num))]
    candidates = torch.stack([noise(clean.shape[1:], draw) for draw in draws], 1).to(clean.device)  # [B num C H W]
    if num == 1:
        return candidates[:, 0]
    chosen: list[Tensor] = []
    for drawn, latents in zip(candidates, clean.float(), strict=True):
        distance = (drawn - latents).square().flatten(1).sum(1)
        chosen.append(drawn.index_select(0, distance.argmin().view(1)))  # indexing would wait for the device
    return torch.cat(chosen)


def with_coarser_levels(drawn: Tensor, noise: Noise, discount: float) -> Tensor:
    """Make multi-resolution noise [B C H W] whose finest level is `drawn`.

    After Multi-Resolution Noise for Diffusion Model Training (J. Whitaker, 2023): level i has sides of H / 2^i and
    W / 2^i, is enlarged with straight lines between its values, and weighs discount^i. Enlarging is scaled row by row
    and the sum as a whole so that each value remains standard normal, and only neighbours depend on each other.
    """
    channels, *sides = drawn.shape[1:]
    total, power, level = drawn, 1.0, 0
    while min(side >> level for side in sides) > 1:
        level += 1
        height, width = (side >> level for side in sides)
        coarse = noise((channels, height, width), f"pyramid {level}").to(drawn.device)
        rows, columns = enlarging(height, sides[0]).to(coarse), enlarging(width, sides[1]).to(coarse)
        total = total + discount**level * (rows @ coarse @ columns.T)
        power += discount ** (2 * level)
    return total / power**0.5


def enlarging(size: int, side: int) -> Tensor:
    """Build the matrix [side size] of linear interpolation. Its rows have length 1, so it maps independent standard
    normal values to standard normal values."""
    matrix = nn.functional.interpolate(torch.eye(size)[None], size=side, mode="linear")[0].T
    return matrix / cast("Any", matrix).norm(dim=1, keepdim=True)
