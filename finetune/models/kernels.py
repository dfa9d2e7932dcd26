"""The device's ways to compute a training step."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Literal["auto", "flash", "efficient", "cudnn", "math"]
BACKENDS: dict[Attention, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
ABSENT = ("No available kernel", "No viable backend")
"""Beginnings of torch's messages where a backend does not take the inputs, on a GPU and on a CPU."""
FIRST_TF32 = (8, 0)
"""The compute capability from which NVIDIA's GPUs have TF32."""


def to_channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions with their channels last. Activations follow them through the network."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def refuse_without_convolutions(denoiser: nn.Module, *, channels_last: bool) -> None:
    """Raise ValueError for channels last in a transformer. One convolution, which cuts its input into patches, is all
    that it has."""
    if channels_last and sum(isinstance(module, nn.Conv2d) for module in denoiser.modules()) < 2:
        raise ValueError(
            f"train.channels_last: got true, but {type(denoiser).__name__} has no convolutions to speed up, expected a "
            "U-Net. Set it to false."
        )


@contextlib.contextmanager
def attention_kernel(how: Attention) -> Iterator[None]:
    """Compute attention in one way within the context. Raises ValueError where the device cannot."""
    if how == "auto":
        yield
        return
    try:
        with sdpa_kernel(BACKENDS[how]):
            yield
    except RuntimeError as error:
        if not str(error).startswith(ABSENT):
            raise
        raise ValueError(
            f"train.attention: got {how}, which does not compute the attention of this model on this device and in "
            "this precision. Use auto, which takes the fastest that does."
        ) from error


def refuse_without_kernel(how: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError where a device has no such attention."""
    query = torch.zeros(1, 1, 8, 64, device=device, dtype=dtype, requires_grad=True)
    with attention_kernel(how):
        functional.scaled_dot_product_attention(query, query, query)


def use_tf32(device: torch.device) -> None:
    """Compute float32 products of matrices in TF32. Raises ValueError on a device without it."""
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < FIRST_TF32:
        raise ValueError(
            f"train.tf32: got true on {device.type}, expected an NVIDIA GPU of compute capability 8.0 or higher. Set "
            "it to false."
        )
    torch.backends.cuda.matmul.allow_tf32 = True
