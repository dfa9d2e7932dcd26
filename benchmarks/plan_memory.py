"""Planned against measured memory of training steps on a CPU.

    python benchmarks/plan_memory.py [--width 96] [--resolution 256] [--steps 3] [--processes 2]

The model has SD 1.5's U-Net topology at a fraction of its width (320), with random weights. Each variant runs in a
process of its own: it notes its resident memory when all is imported, attaches the method, and takes real steps with
the project's own optimizer on random latents. Measured is the highest resident memory during the steps beyond the noted
one (VmHWM, cleared before them). Small blocks are returned to the system (MALLOC_TRIM_THRESHOLD_), so what is measured
is what is in use. The plan is that of `finetune plan` for the same method and options. Several processes share the
weights (FSDP2), and the first is measured.
"""

import argparse
import multiprocessing
import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

VARIANTS: dict[str, dict[str, object]] = {
    "adapters": {"method": "lora"},
    "adapters, checkpointing": {"method": "lora", "train.gradient_checkpointing": True},
    "adapters, batch 4": {"method": "lora", "train.batch_size": 4},
    "all weights": {"method": "full"},
    "all weights, checkpointing": {"method": "full", "train.gradient_checkpointing": True},
    "all weights, in backward": {"method": "full", "optim.in_backward": True, "train.max_grad_norm": 0.0},
    "all weights, batch 4": {"method": "full", "train.batch_size": 4},
}


def resident(name: str) -> int:
    """Read VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure_shared(rank: int, num: int, results: Any, *arguments: Any) -> None:
    """Measure as one of several processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    found = measure(*arguments, num=num)
    if rank == 0:
        results.put(found)
    torch.distributed.destroy_process_group()


def measure(options: dict[str, Any], width: int, resolution: int, steps: int, num: int = 1) -> tuple[int, int]:
    """Return planned and measured bytes. Runs alone in a process, or as one of `num`."""
    from accelerate import Accelerator
    from diffusers import UNet2DConditionModel

    from finetune.config.parse.command_line import parse
    from finetune.config.parse.dump import with_options
    from finetune.config.recipes import LoRATrainConfig
    from finetune.methods.full import Full
    from finetune.methods.lora.method import LoRA
    from finetune.models.blocks import sharded_blocks
    from finetune.models.families.sd import StableDiffusion
    from finetune.models.family import Components
    from finetune.models.prompts import Prompts
    from finetune.models.stored import cast_and_move
    from finetune.optim.build import build_optimizer
    from finetune.processes.sharding_request import Sharding
    from finetune.setup.sharding import shard
    from finetune.sizing.optimizer_state import state_bytes
    from finetune.sizing.parts import in_parts, num_bytes
    from finetune.sizing.step import Precision, built_network, denoising_step

    torch.set_num_threads(1)
    own = dict(options)
    words = ["--model.source", "m", "--data.folder", "d", "--output.folder", "o"]
    config = parse(LoRATrainConfig, words, program="benchmark")
    method = LoRA(config.lora) if own.pop("method") == "lora" else Full()
    config, family = with_options(config, own), StableDiffusion()
    sizes: dict[str, Any] = {"block_out_channels": (width, 2 * width, 4 * width, 4 * width), "cross_attention_dim": 768}
    shape = (config.train.batch_size, 4, resolution // 8, resolution // 8)

    def components(unet: Any) -> Components:
        return Components(unet, *[None] * 4)  # pyright: ignore[reportArgumentType]

    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes).requires_grad_(False)
    exact = Precision(torch.float32, "cpu")
    network: Any = built_network(family, components(unet), method, config, exact)
    prompts = Prompts(torch.empty(shape[0], 77, 768, device="meta"))
    frees = config.optim.in_backward or num > 1
    step = denoising_step(network, prompts, shape, config, exact, frees_gradients=frees, num_sharing=num)
    held = in_parts(network, unet, sharded_blocks(family, unet), num, reshards=True)
    passes = step.peak if frees else max(step.peak, step.gradients)
    passes += held.gathered if num > 1 else 0
    planned = num_bytes(held.trained) + num_bytes(held.frozen) + state_bytes(held.trained, config.optim) + passes

    warm_up()
    accelerator = Accelerator(cpu=True) if num > 1 else None
    before = resident("VmRSS")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**sizes).requires_grad_(False)
    network = method.network(family, components(unet))
    method.attach(network, 0)
    cast_and_move(network, trained=torch.float32, frozen=torch.float32, device=torch.device("cpu"))
    if config.train.gradient_checkpointing:
        network.checkpoint_gradients()
    if accelerator is not None:
        shard(network, family, accelerator.device, num, Sharding(reshards=True))
    optimizer = build_optimizer(method.param_groups(network.train(), config.optim), config.optim)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    prompts = replace(prompts, embeddings=torch.randn(shape[0], 77, 768))
    for _ in range(steps):
        noisy = torch.randn(shape)
        (network(noisy, torch.full((shape[0],), 500), prompts) - noisy).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return planned, resident("VmHWM") - before


def warm_up() -> None:
    """Load what libraries load at their first use."""
    layer = torch.nn.Conv2d(8, 8, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.randn(1, 8, 8, 8)).sum().backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="variants (all)")
    options = parser.parse_args()
    os.environ["MALLOC_TRIM_THRESHOLD_"] = os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    print(f"# {date.today()}, torch {torch.__version__}, one CPU thread, float32, {vars(options)}")
    print(f"{'':28} planned MB  measured MB  ratio")
    for name in options.only or VARIANTS:
        arguments = (VARIANTS[name], options.width, options.resolution, options.steps)
        if options.processes > 1 and "optim.in_backward" in VARIANTS[name]:
            continue  # refused with several processes
        processes = multiprocessing.get_context("spawn")
        if options.processes > 1:
            results = processes.SimpleQueue()
            spawned = (options.processes, results, *arguments)
            torch.multiprocessing.spawn(measure_shared, spawned, options.processes)  # pyright: ignore
            planned, measured = results.get()
        else:
            with processes.Pool(1) as pool:
                planned, measured = pool.apply(measure, arguments)
        print(f"{name:28} {planned / 1e6:10.0f} {measured / 1e6:12.0f} {planned / measured:6.2f}", flush=True)


if __name__ == "__main__":
    main()
