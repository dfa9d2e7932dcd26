"""Rounding to bfloat16 that does not lose small updates.

When rounding to nearest, an update below 2^-9 of its weight is lost every time, and training stalls (Revisiting
BFloat16 Training, arXiv 2010.06192, which proposes both remedies here). torchao and optimi have them for optimizers of
their own; torchao draws from the global random state, which a resumed run does not have.
"""

import torch
from torch import Tensor

from finetune.randomness import stream


def random_bits(weight: Tensor, seed: int, step: int, group: str, index: int) -> Tensor:
    """Draw int32 uniforms from 0 to 65535 of the weight's shape. They are a function of seed, optimizer step and
    parameter, so every process draws the same. The generator is on the weight's device, because a CPU would take
    seconds for a large model."""
    source = torch.Generator(weight.device).manual_seed(stream(seed, "rounding", step, group, index))
    return torch.randint(0, 1 << 16, weight.shape, generator=source, dtype=torch.int32, device=weight.device)


def round_stochastically(exact: Tensor, bits: Tensor) -> Tensor:
    """Round float32 `exact` to one of its two bfloat16 neighbours. The mean over uniform `bits` is `exact`. A bfloat16
    number is the upper half of a float32 number, and the lower half, over 65536, is the distance of `exact` from the
    neighbour nearer to zero: that is how often adding uniform bits to it carries into the upper half."""
    pattern = exact.view(torch.int32)
    upper = ((pattern + bits) & ~0xFFFF).view(torch.float32)
    return torch.where(exact.isfinite(), upper, exact).bfloat16()


def compensated(weight: Tensor, compensation: Tensor | None) -> Tensor:
    """Add a bfloat16 weight and its compensation in float32."""
    exact = weight.float()
    return exact if compensation is None else exact - compensation.float()


def round_compensated(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Split into the nearest bfloat16 weight and Kahan's compensation. With the weight w, compensation c and update u
    the sum is y = u - c, s' = w + y, c' = (s' - w) - y; `exact` is w - c + u, so s' is its rounding and c' = s' -
    exact, also bfloat16."""
    weight = exact.bfloat16()
    return weight, (weight.float() - exact).bfloat16()
