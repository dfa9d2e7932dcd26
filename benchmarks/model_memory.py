"""Memory and error of a LoRA step on quantized or offloaded layers.

    python benchmarks/model_memory.py [--width 96] [--size 16]

The model has SD 1.5's U-Net topology at a fraction of its width (320), random weights and recomputed activations. Each
kind runs in a process of its own and takes the same step, in float32. Counted are the bytes of the weights, of all of
the U-Net that the device holds and of the linear layers in its blocks wherever they are, and the growth of the
process's largest resident memory while it steps, beyond the peak that loading had reached. The error is that of the
loss and of all LoRA gradients together, relative to those of unquantised weights. The last columns apply the bytes per
weight to denoisers of linear layers alone, of two and of twelve thousand million weights.
"""

import argparse
import multiprocessing
import resource
import time
from datetime import date
from typing import Any

import torch

KINDS = {"none": ("none", True, False), "int8": ("int8", True, False), "fp8": ("fp8", True, False)}
KINDS |= {"nf4": ("nf4", False, False), "nf4, double": ("nf4", True, False)}
KINDS |= {"none, host": ("none", True, True), "int8, host": ("int8", True, True)}


def measure(kind: Any, double: bool, offload: bool, width: int, size: int) -> dict[str, Any]:
    """Return the figures of one kind; runs alone in a process."""
    from diffusers import UNet2DConditionModel
    from torch import nn

    from finetune.config.lora import LoRAConfig
    from finetune.methods.lora.adapters import attach_adapters
    from finetune.models.families.sd import StableDiffusion
    from finetune.models.family import Network
    from finetune.models.prompts import Prompts
    from finetune.models.quantized.packed import PackedLinear, pack_layers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    channels = (width, 2 * width, 4 * width, 4 * width)
    unet: Any = UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=768)
    unet.requires_grad_(False)
    noisy, prompt = torch.randn(1, 4, size, size), torch.randn(1, 77, 768)
    names = [name for name, layer in unet.named_modules() if type(layer) is nn.Linear]
    names = [name for name in names if any(piece.isdigit() for piece in name.split("."))]
    num_linear = sum(unet.get_submodule(name).weight.numel() for name in names)
    if kind != "none" or offload:
        pack_layers(unet, kind, double=double, device=torch.device("cpu"), dtype=torch.float32, offload=offload)
    layers: list[Any] = [unet.get_submodule(name) for name in names]
    linear = sum(x.num_bytes() if isinstance(x, PackedLinear) else x.weight.numel() * 4 for x in layers)
    whole = sum(value.numel() * value.element_size() for value in unet.parameters())
    network = Network(StableDiffusion(), unet).train()
    attach_adapters(network, LoRAConfig(rank=8), 0)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)
    network.checkpoint_gradients()

    def step() -> float:
        prediction = network(noisy, torch.tensor([500]), Prompts(prompt))
        loss = (prediction - noisy).square().mean()
        loss.backward()
        return loss.item()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = step()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    start = time.perf_counter()
    step()
    found = {"whole": whole, "linear": linear, "num_linear": num_linear, "growth": growth, "loss": loss}
    return found | {"gradients": gradients.numpy(), "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--size", type=int, default=16)
    options = parser.parse_args()
    print(f"# {date.today()}, torch {torch.__version__}, one CPU thread, {vars(options)}")
    print(
        "kind         device MB  linear MB  bits/weight  step MB  step s  loss error  gradient error  2e9 GB  12e9 GB"
    )
    usual: dict[str, Any] = {}
    for name, (kind, double, offload) in KINDS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (kind, double, offload, options.width, options.size))
        usual = usual or found
        gradients, expected = (torch.from_numpy(figures["gradients"]) for figures in (found, usual))
        error = float((gradients - expected).norm() / expected.norm())
        bits = 8 * found["linear"] / found["num_linear"]
        print(
            f"{name:12} {found['whole'] / 1e6:9.1f} {found['linear'] / 1e6:10.1f} {bits:12.2f} "
            f"{found['growth'] / 1e6:8.1f} {found['seconds']:7.2f} {abs(found['loss'] / usual['loss'] - 1):11.1e} "
            f"{error:15.1e} {bits * 2e9 / 8e9:7.1f} {bits * 12e9 / 8e9:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
