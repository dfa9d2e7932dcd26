"""Bytes per trained parameter: weights, peak of gradients, optimizer state, average.

    python benchmarks/full_memory.py [--width 64] [--steps 2]

The model has SD 1.5's U-Net topology at a fraction of its width (320). Each variant takes real steps with the
project's own optimizer; what is counted are the bytes of the tensors that are alive, gradients whenever one arrives.
Not in the table: activations, buffers of the device's libraries, the copies that mixed precision makes of float32
weights, and what the update of one bfloat16 weight needs for a moment (about 20 bytes per element of the largest one).
The last columns apply the figures to the 860 million parameters of SD 1.5's U-Net, with an average beside the weights
and in host memory.
"""

import argparse
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel

from finetune.config.optim import OptimConfig
from finetune.optim.build import build_optimizer
from finetune.optim.ema import EMA
from finetune.optim.groups import usual_groups
from finetune.run.device import TRAINED_DTYPES

SD15_PARAMETERS = 859_520_964
VARIANTS = {
    "adamw": OptimConfig(),
    "adamw8bit": OptimConfig(name="adamw8bit"),
    "adamw8bit, in_backward": OptimConfig(name="adamw8bit", in_backward=True),
    "adamw, bf16_kahan": OptimConfig(weights="bf16_kahan"),
    "adamw8bit, bf16_kahan": OptimConfig(name="adamw8bit", weights="bf16_kahan"),
    "adamw8bit, bf16_stochastic": OptimConfig(name="adamw8bit", weights="bf16_stochastic"),
    "adamw, bf16_stochastic, in_backward": OptimConfig(weights="bf16_stochastic", in_backward=True),
    "adamw8bit, bf16_stochastic, in_backward": OptimConfig(
        name="adamw8bit", weights="bf16_stochastic", in_backward=True
    ),
    "adafactor, bf16_stochastic, in_backward": OptimConfig(
        name="adafactor", weights="bf16_stochastic", in_backward=True
    ),
}


def num_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors if t.numel()}.values())


def measure(config: OptimConfig, width: int, steps: int) -> tuple[int, dict[str, float]]:
    """Count the parameters, and the bytes of each tensor kind per parameter."""
    torch.manual_seed(0)
    dtype = TRAINED_DTYPES[config.weights]
    channels = (width, 2 * width, 4 * width, 4 * width)
    unet = UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=768)
    torch.nn.Module.to(unet, dtype)
    parameters = list(unet.parameters())
    most = 0

    def count(_: torch.Tensor) -> None:
        nonlocal most
        most = max(most, num_bytes([p.grad for p in parameters if p.grad is not None]))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(count)  # before those that free
    optimizer = build_optimizer(usual_groups(unet, config), config)
    noisy, prompt = torch.randn(1, 4, 8, 8, dtype=dtype), torch.randn(1, 77, 768, dtype=dtype)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["at_step"] = step
        unet(noisy, torch.tensor([500]), prompt).sample.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, torch.Tensor)]
    total = sum(p.numel() for p in parameters)
    kinds = {
        "weights": num_bytes(parameters),
        "gradients": most,
        "state": num_bytes(state),
        "average": num_bytes(list(EMA.from_network(unet, 0.99).average.values())),
    }
    return total, {name: value / total for name, value in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    print(f"{'bytes per parameter':40} weights  gradients  state  sum  average   SD 1.5, GB: beside  in host")
    total = 0
    for name, config in VARIANTS.items():
        total, kinds = measure(config, options.width, options.steps)
        held = kinds["weights"] + kinds["gradients"] + kinds["state"]
        beside, host = ((held + extra) * SD15_PARAMETERS / 1e9 for extra in (kinds["average"], 0))
        print(
            f"{name:40} {kinds['weights']:7.2f} {kinds['gradients']:10.2f} {kinds['state']:6.2f} {held:5.2f}"
            f"{kinds['average']:8.2f} {beside:20.1f} {host:8.1f}",
            flush=True,
        )
    print(f"{total:,} parameters")


if __name__ == "__main__":
    main()
