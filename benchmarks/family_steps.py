"""Peak memory and speed of a LoRA step of the published models.

    python benchmarks/family_steps.py [--only "SD 1.5" ...] [--batch-size 1] [--steps 5] [--tiny]

The denoiser has random weights in bfloat16, with the adapters of a default run in float32, gradient checkpointing and
AdamW; latents and prompts are noise of the right shape, as if they came from the caches, so neither autoencoder
nor text encoders are there. Needs CUDA; --tiny takes the tests' tiny models on the CPU instead, to see that it works.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from benchmarks.model_sizes import MODELS, Model
from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.config.optim import OptimConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models import FAMILIES, family_named
from finetune.models.family import ModelFamily, ModelSource, Network
from finetune.models.interfaces import Denoiser
from finetune.models.prompts import Prompts, whole_sizes
from finetune.objectives.diffusion import denoising_loss
from finetune.optim.build import build_optimizer
from finetune.optim.groups import usual_groups

PIXELS_PER_LATENT = 8
NUM_TOKENS = {"sd": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}


@dataclass(frozen=True)
class Inputs:
    """The inputs of a step."""

    latents: Tensor
    prompts: Prompts
    scheduler: Any


@dataclass(frozen=True)
class Figures:
    """Measurements of a step."""

    loss: float
    seconds: float
    """Of a step, after the first."""
    peak_bytes: int
    """0 on the CPU."""


def inputs_for(model: Model, denoiser: Any, batch_size: int, device: torch.device) -> Inputs:
    """Return noise in the shapes that the denoiser's config asks for."""
    config, side = denoiser.config, model.resolution // PIXELS_PER_LATENT
    is_flow = "joint_attention_dim" in config
    channels = 16 if is_flow else config.in_channels
    width = config.joint_attention_dim if is_flow else config.cross_attention_dim
    embeddings = torch.randn(batch_size, NUM_TOKENS[model.family], width, device=device)
    pooled_width = 0
    if is_flow:
        pooled_width = config.pooled_projection_dim
    elif config.addition_embed_type == "text_time":
        pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    pooled = torch.randn(batch_size, pooled_width, device=device) if pooled_width else None
    sizes = whole_sizes(batch_size, model.resolution, model.resolution).to(device)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if is_flow else DDIMScheduler(beta_schedule="scaled_linear")
    latents = torch.randn(batch_size, channels, side, side, device=device)
    return Inputs(latents, Prompts(embeddings, None, pooled, sizes), scheduler)


def measure(family: ModelFamily, denoiser: Denoiser, inputs: Inputs, *, rank: int, steps: int) -> Figures:
    """Take one step, then `steps` that are timed."""
    device = inputs.latents.device
    denoiser.requires_grad_(False)
    network = Network(family, denoiser)
    attach_adapters(network, LoRAConfig(rank=rank), seed=0)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(device, torch.float32 if parameter.requires_grad else parameter.dtype)
    network.checkpoint_gradients()
    network.train()
    optimizer = build_optimizer(usual_groups(network, OptimConfig()), OptimConfig())
    objective = family.objective(inputs.scheduler, LossConfig())
    size = inputs.latents.shape[2], inputs.latents.shape[3]
    times, loss = [], torch.zeros(())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(1 + steps):
        started = time.perf_counter()
        u = torch.rand(len(inputs.latents), generator=torch.Generator().manual_seed(step)).double()
        t = objective.sample_timesteps(u, size).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = denoising_loss(
                objective,
                lambda noisy, t: network(noisy, t, inputs.prompts),
                inputs.latents,
                torch.randn_like(inputs.latents),
                t,
            )
        loss = (losses * objective.weight(t)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Figures(loss.item(), sum(times[1:]) / steps, peak)


def exact(model: Model, batch_size: int, *, rank: int, steps: int) -> Figures:
    """Measure the model at its exact size on the GPU."""
    device, usual = torch.device("cuda"), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            denoiser: Any = model.parts[0].build()
    finally:
        torch.set_default_dtype(usual)
    inputs = inputs_for(model, denoiser, batch_size, device)
    return measure(family_named(model.family), denoiser, inputs, rank=rank, steps=steps)


def tiny(name: str, batch_size: int, *, rank: int, steps: int) -> Figures:
    """Measure the tests' tiny model of a family on the CPU. The prompts come from its own text encoders."""
    from tests.support.families import save_tiny_pipeline

    family = family_named(name)
    with tempfile.TemporaryDirectory() as folder:
        components = family.load(ModelSource(str(save_tiny_pipeline(name, Path(folder)))))
    with torch.no_grad():
        tokens = family.tokenize(components.tokenizers, ["a red circle"] * batch_size)
        prompts = family.encode_prompts(components.text_encoders, tokens)
    side = 16
    pixels = side * family.pixels_per_latent(components.vae)
    latents = torch.randn(batch_size, components.vae.config.latent_channels, side, side)
    inputs = Inputs(latents, replace(prompts, sizes=whole_sizes(batch_size, pixels, pixels)), components.scheduler)
    return measure(family, components.denoiser, inputs, rank=rank, steps=steps)


def row(name: str, resolution: str, batch_size: int, found: Figures) -> str:
    figures = f"{found.peak_bytes / 1e9:>9.2f} {batch_size / found.seconds:10.2f} {found.loss:>8.3f}"
    return f"{name:14} {resolution:>10} {batch_size:>6} {figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[model.name for model in MODELS], help="models (all)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="timed steps (5)")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapters (16)")
    parser.add_argument("--tiny", action="store_true", help="the tests' tiny models, on the CPU")
    options = parser.parse_args()
    sizes = {"rank": options.rank, "steps": options.steps}
    print(f"{'model':14} {'resolution':>10} {'batch':>6} {'peak GB':>9} {'images/s':>10} {'loss':>8}")
    if options.tiny:
        for name in FAMILIES:
            print(row(name, "tiny", options.batch_size, tiny(name, options.batch_size, **sizes)), flush=True)
        return
    if not torch.cuda.is_available():
        print("There is no CUDA device; --tiny shows that the script works.")
        raise SystemExit(1)
    for model in MODELS:
        if not options.only or model.name in options.only:
            print(row(model.name, str(model.resolution), options.batch_size, exact(model, options.batch_size, **sizes)))
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
