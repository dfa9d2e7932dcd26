"""Step time of the real training loop over a bare step's.

The bare step is forward, backward, clipping and optimizer alone, in the same process.

    python benchmarks/overhead.py [--rounds 3] [--steps 8] [--batch_size 1] [--width 64] [--side 256]

The model has SD 1.5's exact U-Net topology at a quarter of its width (34 M parameters) and 256 px images, LoRA rank 4
on the attention layers. Rounds alternate: `train()` for some steps with warm caches, then as many steps of the bare
network on resident inputs. Of each the fastest and the median step are compared, since other load on the machine only
ever adds time. The first step of every round, which allocates, is left out.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel

from finetune.config.optim import OptimConfig
from finetune.config.outputs import CheckpointConfig, OutputConfig
from finetune.config.recipes import LoRAConfig, LoRATrainConfig
from finetune.config.sections import CacheConfig, DataConfig, LoopConfig, ModelConfig
from finetune.config.tracking import TrackingConfig
from finetune.data.manifest import read_manifest
from finetune.methods.lora.method import LoRA
from finetune.models import family_named
from finetune.models.family import Network
from finetune.models.prompts import Prompts
from finetune.optim.ema import trained_parameters
from finetune.train import train
from tests.tiny.sd import save_pictures, save_pipeline

ATTENTION = LoRAConfig(rank=4, targets=("to_q", "to_k", "to_v", "to_out.0"))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, images = save_pipeline(folder / "model", size="factor8"), folder / "images"
        build_unet(options.width).save_pretrained(model / "unet")
        save_pictures(images, count=4 * options.batch_size, size=options.side)
        loop: list[float] = []
        pure: list[float] = []
        for number in range(options.rounds + 1):
            seconds = loop_steps(folder, model, images, number, options)
            bare = pure_steps(options)
            if number:  # the first round fills the caches and warms the machine
                loop += seconds
                pure += bare
    print(f"{'':14}{'fastest ms':>12}{'median ms':>12}")
    for label, times in (("train() loop", loop), ("pure step", pure)):
        print(f"{label:14}{1000 * min(times):12.1f}{1000 * statistics.median(times):12.1f}")
    print(f"{'ratio':14}{min(loop) / min(pure):12.3f}{statistics.median(loop) / statistics.median(pure):12.3f}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(loop)} steps each")


def build_unet(width: int) -> UNet2DConditionModel:
    """Build SD 1.5's U-Net with `width` instead of 320 channels. It reads the tiny text encoder's embeddings."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width), attention_head_dim=8, cross_attention_dim=32
    )


def loop_steps(folder: Path, model: Path, images: Path, number: int, options: argparse.Namespace) -> list[float]:
    """Return the seconds of a real run's steps, except the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    config = LoRATrainConfig(
        ModelConfig(str(model)),
        DataConfig(str(images), resolution=options.side),
        OutputConfig(folder / f"out{number}"),
        train=LoopConfig(steps=options.steps + 1, batch_size=options.batch_size, log_every=1),
        optim=OptimConfig(),
        cache=CacheConfig(folder=folder / "cache"),
        checkpoint=CheckpointConfig(every=10_000),
        tracking=TrackingConfig(names=()),
        lora=ATTENTION,
    )
    out = train(config, LoRA(ATTENTION), read_manifest(str(images)))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    elapsed = [row["elapsed_seconds"] for row in rows]
    return [after - before for before, after in itertools.pairwise(elapsed)]


def pure_steps(options: argparse.Namespace) -> list[float]:
    """Return the seconds of bare steps, except the first. They use the same adapted U-Net on resident random inputs."""
    family = family_named("sd")
    unet: Any = build_unet(options.width).requires_grad_(False)
    network = Network(family, unet)
    LoRA(ATTENTION).attach(network, 0)
    network.train()
    parameters = list(trained_parameters(network).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    side, batch = options.side // 8, options.batch_size
    noisy, target = torch.randn(batch, 4, side, side), torch.randn(batch, 4, side, side)
    t, prompts = torch.randint(1000, (batch,)), Prompts(torch.randn(batch, 77, 32))
    seconds = []
    for _ in range(options.steps + 1):
        clock = time.perf_counter()
        torch.nn.functional.mse_loss(network(noisy, t, prompts), target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - clock)
    return seconds[1:]


if __name__ == "__main__":
    main()
