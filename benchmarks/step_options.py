"""Speed of steps with train.compile or train.channels_last over plain ones.

    python benchmarks/step_options.py                        # the shipped base model, all weights, bf16
    python benchmarks/step_options.py --precision no --adapters --ways plain channels_last

Rounds of all ways alternate. The median of the ratios round by round is printed, and the seconds of the first
step.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models import family_named
from finetune.models.compiled import compile_denoiser, compiled_step
from finetune.models.family import ModelSource, Network
from finetune.models.kernels import to_channels_last
from finetune.models.prompts import Prompts

SHIPPED = Path(__file__).parents[1] / "finetune" / "assets" / "pictograms"
WAYS = ("plain", "compiled", "channels_last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHIPPED), help="a pipeline folder (the shipped base model)")
    parser.add_argument("--family", default="sd")
    parser.add_argument("--batch", type=int, default=16, help="images of a step (16)")
    parser.add_argument("--size", type=int, default=16, help="side of the latents (16)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="plain and others (all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--adapters", action="store_true", help="train a LoRA of rank 16 instead of all weights")
    options = parser.parse_args()
    networks = {way: prepared(options, way) for way in dict.fromkeys(["plain", *options.ways])}
    for way, network in networks.items():
        print(f"{way}: first step {step(network, way, options):.1f} s", flush=True)
        step(network, way, options)
    seconds: dict[str, list[float]] = {way: [] for way in networks}
    for _ in range(options.rounds):
        for way, network in networks.items():
            seconds[way].append(step(network, way, options))
    for way in networks:
        ratios = [plain / own for plain, own in zip(seconds["plain"], seconds[way], strict=True)]
        speed = options.batch / statistics.median(seconds[way])
        print(f"{way:13} {speed:7.1f} images/s, {statistics.median(ratios):.2f} times plain")


def prepared(options: argparse.Namespace, way: str) -> Network:
    """Load the denoiser, with what is trained."""
    family = family_named(options.family)
    components = family.load(ModelSource(options.model))
    network = Network(family, components.denoiser)
    if options.adapters:
        attach_adapters(network, LoRAConfig(), seed=0)
    else:
        network.requires_grad_(True)
    if way == "channels_last":
        to_channels_last(network)
    compile_denoiser(family, components.denoiser, "blocks" if way == "compiled" else "none")
    return network.train()


def step(network: Network, way: str, options: argparse.Namespace) -> float:
    """Make one forward and backward pass; return its seconds."""
    config = network.denoiser.config
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(options.batch, config.in_channels, options.size, options.size, generator=noise)
    embeddings = torch.randn(options.batch, 16, config.cross_attention_dim, generator=noise)
    started = time.perf_counter()
    with (
        compiled_step("blocks" if way == "compiled" else "none"),
        torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"),
    ):
        found: Tensor = network(latents, torch.full((options.batch,), 500), Prompts(embeddings))
        found.float().square().mean().backward()
    for parameter in network.parameters():
        parameter.grad = None
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
