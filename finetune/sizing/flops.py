"""The arithmetic of training on an image, counted on torch's meta device.

Model FLOPs as in arXiv 2204.02311, appendix B: forward and backward pass of the step, with a multiplication and an
addition counted as two. What checkpointing computes again does not count, nor do predictions of the base model, the
optimizer, the VAE and what is cached.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from finetune.methods.base import TuningMethod
from finetune.models.family import AutoencoderNetwork, Components, ModelFamily, Network
from finetune.models.prompts import Condition
from finetune.sizing.autocast import MetaAutocast
from finetune.sizing.step import META, condition, latent_shape

Size = tuple[int, int]
"""Width and height of images."""
DEGREE = 2
"""FLOPs are a polynomial in the number of pixels: convolutions and cross-attention are linear, attention is square."""


def attention_flops(query: Any, key: Any, value: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    """Count a forward pass of flash attention on a CPU. All are shapes [B, heads, L, width]."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *others: Any, out_shape: Any = None, **options: Any
) -> int:
    """Count its backward pass."""
    return sdpa_backward_flop_count(gradient, query, key, value)


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
"""The operation by which `finetune.sizing.autocast` computes attention; torch's counter knows those of GPUs."""


def training_flops(
    family: ModelFamily, components: Components, method: TuningMethod, seed: int, sizes: Iterable[Size]
) -> dict[Size, float]:
    """Count an image's FLOPs at each size. Nothing is counted where an autoencoder trains. `components` have no values
    (`finetune.sizing.model.on_meta`) and are not changed."""
    components = copy.deepcopy(components)
    network = method.network(family, components)
    if isinstance(network, AutoencoderNetwork):
        return {}
    with META:
        method.attach(network, seed)
    network.train()
    is_in_network = "text_encoders" in method.parts

    def counted(size: Size) -> float:
        shape = latent_shape(family, components, 1, size)
        prompts = condition(family, components, shape, text_encoder_is_trained=is_in_network)
        noisy, t = torch.empty(shape, device=META), torch.zeros(1, dtype=torch.long, device=META)
        return step_flops(network, noisy, t, prompts)

    return interpolated(list(sizes), counted)


def step_flops(network: Network, noisy: Tensor, t: Tensor, prompts: Condition) -> float:
    """Count a forward and a backward pass on the meta device."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        with MetaAutocast(None, "cpu"):
            predicted = network(noisy, t, prompts)
        torch.autograd.backward(predicted.sum())
    network.zero_grad()
    return float(counter.get_total_flops())


def interpolated(sizes: Sequence[Size], counted: Callable[[Size], float]) -> dict[Size, float]:
    """Count at three numbers of pixels at most. The polynomial through them gives the others."""
    by_pixels = {width * height: (width, height) for width, height in sizes}
    pixels = sorted(by_pixels)
    chosen = pixels if len(pixels) <= DEGREE + 1 else [pixels[0], pixels[len(pixels) // 2], pixels[-1]]
    known = {number: counted(by_pixels[number]) for number in chosen}
    fit = np.polynomial.Polynomial.fit(list(known), list(known.values()), deg=len(chosen) - 1)
    return {size: known.get(size[0] * size[1], float(fit(size[0] * size[1]))) for size in sizes}
