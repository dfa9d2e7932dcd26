"""Training steps of the published models at exact size, with random weights.

Latents and prompts are noise of the right shape, as if they came from the caches, so neither autoencoder nor text
encoders are there.
"""

import itertools
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from benchmarks.model_sizes import Model, on_meta
from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.config.optim import OptimConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models import family_named
from finetune.models.compiled import compile_denoiser, compiled_step
from finetune.models.family import ModelFamily, ModelSource, Network
from finetune.models.interfaces import Denoiser
from finetune.models.kernels import to_channels_last
from finetune.models.prompts import Prompts, whole_sizes
from finetune.models.quantized.packed import pack_layers
from finetune.objectives.diffusion import denoising_loss
from finetune.optim.build import build_optimizer
from finetune.optim.groups import usual_groups
from finetune.sizing.flops import step_flops
from finetune.sizing.step import META

PIXELS_PER_LATENT = 8
NUM_TOKENS = {"sd": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}


@dataclass(frozen=True)
class Ways:
    """How a step is taken."""

    trains: Literal["lora", "full"] = "lora"
    rank: int = 16
    recomputes: bool = True
    """Whether activations are recomputed (gradient checkpointing)."""
    compiles: bool = False
    channels_last: bool = False
    quantization: Literal["none", "int8", "nf4"] = "none"
    offload: bool = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"

    @property
    def packs(self) -> bool:
        """Tell if linear layers are quantized or wait in host memory."""
        return self.offload or self.quantization != "none"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a step."""

    latents: Tensor
    prompts: Prompts
    scheduler: Any


@dataclass(frozen=True)
class Figures:
    """Measurements of steps."""

    loss: float
    first_seconds: float
    """Of the first step, which compiles."""
    seconds: float
    """Of a step, after the second."""
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


def trained_network(family: ModelFamily, denoiser: Denoiser, ways: Ways, device: torch.device) -> Network:
    """Prepare the denoiser as the recipes do; what trains is in float32."""
    denoiser.requires_grad_(ways.trains == "full")
    if ways.packs:
        dtype = next(denoiser.parameters()).dtype
        pack_layers(denoiser, ways.quantization, double=True, device=device, dtype=dtype, offload=ways.offload)
    network = Network(family, denoiser)
    if ways.trains == "lora":
        attach_adapters(network, LoRAConfig(rank=ways.rank), seed=0)
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(device, torch.float32 if parameter.requires_grad else parameter.dtype)
    network.to(device)
    if ways.recomputes:
        network.checkpoint_gradients()
    if ways.channels_last:
        to_channels_last(network)
    compile_denoiser(family, denoiser, "blocks" if ways.compiles else "none")
    return network.train()


def measure(
    family: ModelFamily, denoiser: Denoiser, inputs: Inputs, ways: Ways, *, steps: int, seconds: float = 0.0
) -> Figures:
    """Time at least `steps` steps, for `seconds`, after two others."""
    device = inputs.latents.device
    network = trained_network(family, denoiser, ways, device)
    config = OptimConfig(name=ways.optimizer)
    optimizer = build_optimizer(usual_groups(network, config), config)
    objective = family.objective(inputs.scheduler, LossConfig())
    size = inputs.latents.shape[2], inputs.latents.shape[3]
    is_gpu = device.type == "cuda"

    def step(number: int) -> Tensor:
        u = torch.rand(len(inputs.latents), generator=torch.Generator().manual_seed(number)).double()
        t, noise = objective.sample_timesteps(u, size).to(device), torch.randn_like(inputs.latents)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_gpu):
            losses = denoising_loss(
                objective, lambda noisy, t: network(noisy, t, inputs.prompts), inputs.latents, noise, t
            )
        loss = (losses * objective.weight(t)).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    with compiled_step("blocks" if ways.compiles else "none"):
        started = clock(device)
        step(0)
        first = clock(device) - started
        step(1)
        if is_gpu:
            torch.cuda.reset_peak_memory_stats()
        started, loss, number = clock(device), torch.zeros(()), 0
        for number in itertools.count(1):
            loss = step(1 + number)
            if number >= steps and (not seconds or clock(device) - started >= seconds):
                break
        taken = clock(device) - started
    return Figures(loss.item(), first, taken / number, torch.cuda.max_memory_allocated() if is_gpu else 0)


def clock(device: torch.device) -> float:
    """Return the time at which all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def exact(model: Model, batch_size: int, ways: Ways, *, steps: int, seconds: float = 0.0) -> Figures:
    """Measure the model at its exact size on the GPU."""
    device, usual = torch.device("cuda"), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            denoiser: Any = model.parts[0].build()
    finally:
        torch.set_default_dtype(usual)
    inputs = inputs_for(model, denoiser, batch_size, device)
    return measure(family_named(model.family), denoiser, inputs, ways, steps=steps, seconds=seconds)


def tiny(name: str, batch_size: int, ways: Ways, *, steps: int) -> Figures:
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
    return measure(family, components.denoiser, inputs, ways, steps=steps)


def image_flops(model: Model, ways: Ways) -> float:
    """Count forward and backward pass of an image, as `finetune.sizing.flops` does."""
    denoiser: Any = on_meta(model.parts[0])
    family, inputs = family_named(model.family), inputs_for(model, denoiser, 1, META)
    denoiser.requires_grad_(ways.trains == "full")
    network = Network(family, denoiser)
    if ways.trains == "lora":
        with META:
            attach_adapters(network, LoRAConfig(rank=ways.rank), seed=0)
    t = torch.zeros(1, dtype=torch.long, device=META)
    return step_flops(network.train(), inputs.latents, t, inputs.prompts)
