from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.kernels import (
    attention_kernel,
    refuse_without_convolutions,
    refuse_without_kernel,
    to_channels_last,
    use_tf32,
)
from tests.support.families import save_tiny_pipeline

CPU = torch.device("cpu")


def denoiser(name: str, folder: Path) -> Any:
    return family_named(name).denoiser(ModelSource(str(save_tiny_pipeline(name, folder / name))))


def test_activations_follow_weights_with_channels_last(tmp_path: Path) -> None:
    unet = denoiser("sd", tmp_path)
    inputs = torch.randn(1, unet.config.in_channels, 8, 8), 5, torch.randn(1, 4, unet.config.cross_attention_dim)
    with torch.no_grad():
        before = unet(*inputs).sample
        to_channels_last(unet)
        after = unet(*inputs).sample
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(before, after, atol=1e-5)


def test_a_transformer_is_refused(tmp_path: Path) -> None:
    refuse_without_convolutions(denoiser("sd", tmp_path), channels_last=True)
    transformer = denoiser("sd3", tmp_path)
    refuse_without_convolutions(transformer, channels_last=False)
    with pytest.raises(ValueError, match="SD3Transformer2DModel has no convolutions"):
        refuse_without_convolutions(transformer, channels_last=True)


@pytest.mark.parametrize("how", ["flash", "math"])
def test_kernels_of_a_cpu_agree(how: str) -> None:
    query, key, value = torch.randn(3, 1, 2, 16, 8)
    usual = functional.scaled_dot_product_attention(query, key, value)
    refuse_without_kernel(how, CPU, torch.float32)  # pyright: ignore[reportArgumentType]
    with attention_kernel(how):  # pyright: ignore[reportArgumentType]
        assert torch.allclose(functional.scaled_dot_product_attention(query, key, value), usual, atol=1e-6)


def test_a_kernel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.attention: got cudnn"):
        refuse_without_kernel("cudnn", CPU, torch.bfloat16)


def test_tf32_is_refused_without_such_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"train\.tf32: got true on cpu"):
        use_tf32(CPU)
