"""Keep autoencoders out of fp16 that overflow in it. Encoding for training never uses fp16."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from finetune.models.interfaces import VAE, Decoded, Encoded


@contextmanager
def without_fp16_overflow(vae: VAE) -> Iterator[None]:
    """Run a VAE with `force_upcast` in its weights' dtype under fp16 autocast. Activations of SDXL's published VAE go
    beyond 65504, fp16's largest number, and images come out black. diffusers' pipelines upcast weights in fp16; here
    weights are float32 and autocast alone would round. bf16 reaches as far as float32."""
    kind = vae.device.type
    rounds = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    if not (rounds and vae.config.get("force_upcast")):
        yield
        return
    plain_encode, plain_decode = vae.encode, vae.decode

    def encode(x: Tensor, return_dict: bool = True) -> Encoded:
        with torch.autocast(kind, enabled=False):
            return plain_encode(x.to(vae.dtype), return_dict=return_dict)

    def decode(z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Decoded:
        with torch.autocast(kind, enabled=False):
            return plain_decode(z.to(vae.dtype), return_dict=return_dict, generator=generator)

    vae.encode, vae.decode = encode, decode
    try:
        yield
    finally:
        del vae.encode, vae.decode
