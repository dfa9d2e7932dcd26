"""Rounding of updated weights to bfloat16 that does not lose what is smaller than half a step of it.

To nearest, an update below 2^-9 of its weight is lost every time, and training stalls (Revisiting BFloat16 Training,
arXiv 2010.06192, which proposes both remedies here). torchao and optimi have them for optimizers of their own; torchao
draws from the global random state, which a resumed run does not have.
"""

import torch
from torch import Tensor

from finetune.randomness import stream


def random_bits(weight: Tensor, seed: int, step: int, group: str, index: int) -> Tensor:
    """Return int32 uniforms from 0 to 65535 of the weight's shape.

    They are a function of seed, optimizer step and parameter, and come from a generator of the weight's own device,
    since a CPU would take seconds for a large model; every process draws the same.
    """
    source = torch.Generator(weight.device).manual_seed(stream(seed, "rounding", step, group, index))
    return torch.randint(0, 1 << 16, weight.shape, generator=source, dtype=torch.int32, device=weight.device)


def round_stochastically(exact: Tensor, bits: Tensor) -> Tensor:
    """Return float32 `exact` as one of its two neighbours in bfloat16.

    The mean over uniform `bits` is `exact`. A bfloat16 number is the upper half of a float32 one, and the lower half,
    over 65536, is how far `exact` is from the neighbour nearer to zero: adding uniform bits to it carries into the
    upper half just so often.
    """
    pattern = exact.view(torch.int32)
    upper = ((pattern + bits) & ~0xFFFF).view(torch.float32)
    return torch.where(exact.isfinite(), upper, exact).bfloat16()


def compensated(weight: Tensor, compensation: Tensor | None) -> Tensor:
    """Return in float32 the value of a bfloat16 weight with its compensation."""
    exact = weight.float()
    return exact if compensation is None else exact - compensation.float()


def round_compensated(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest bfloat16 weight s and the compensation c of Kahan's summation, also bfloat16.

    With an update u the sum is y = u - c, s' = w + y, c' = (s' - w) - y; `exact` is w - c + u, so s' is its
    rounding and c' = s' - exact.
    """
    weight = exact.bfloat16()
    return weight, (weight.float() - exact).bfloat16()
