from typing import Any

import pytest
import torch

from finetune.config.lora import LoRAConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Network
from finetune.models.prompts import Prompts
from finetune.models.quantized.packed import pack_layers, packed_layers
from tests.tiny.sd import SIZES, Shape, build_unet

WIDE = Shape((64, 128, 256, 256), SIZES["small"].vae_channels, num_heads=4, text_width=256)


def step(kind: Any, *, offload: bool) -> tuple[float, int, int, torch.Tensor]:
    """Return loss, device bytes, packed bytes and gradients of a step."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.manual_seed(0)
    unet = build_unet(WIDE, sd2=False).requires_grad_(False)
    noisy, prompts = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 256)
    saving = pack_layers(unet, kind, double=True, device=device, dtype=torch.bfloat16, offload=offload)
    network = Network(StableDiffusion(), unet)
    attach_adapters(network, LoRAConfig(rank=4, init="gaussian"), 0)
    for parameter in network.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    network.to(device).train()
    network.checkpoint_gradients()
    if offload:
        assert all(value.is_pinned() for layer in packed_layers(network) for value in layer.waiting.values())
    with torch.autocast("cuda", torch.bfloat16):
        prediction = network(noisy.to(device), torch.tensor([500], device=device), Prompts(prompts.to(device)))
    loss = (prediction.float() - noisy.to(device)).square().mean()
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    allocated = torch.cuda.memory_allocated() - before
    return loss.item(), allocated, saving.bytes_now, gradients.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_the_device_holds_the_weights_no_more(kind: str) -> None:
    loss, allocated, weights, gradients = step(kind, offload=False)
    again, less, _, others = step(kind, offload=True)
    assert again == pytest.approx(loss, rel=1e-4)
    assert float((others - gradients).norm() / gradients.norm()) < 1e-2
    assert less < allocated - 0.9 * weights
