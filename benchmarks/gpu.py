"""Speed, MFU and peak memory of training on one GPU.

    python benchmarks/gpu.py [--seconds 40] [--rows 3]
    python benchmarks/gpu.py --tiny        # the same rows of the tests' tiny models on the CPU: that they run

Twelve rows, the most wanted first, under ten minutes in all. Each is a process of its own that is ended after
`--seconds` and cannot spoil the others; it is printed when it is done. Denoisers have their exact size and random
weights (gpu_steps.py), bfloat16 where they are frozen and float32 with autocast where they train; AdamW. MFU counts the
arithmetic of forward and backward pass alone (docs/speed.md); recomputed activations and quantized layers lower it.
"""

import argparse
import multiprocessing
import os
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for a GPU must not start CUDA before the forks

import torch

from benchmarks.gpu_steps import Figures, Ways, exact, image_flops, tiny
from benchmarks.model_sizes import MODELS, Model
from finetune.sizing.work import known_peak

TIMED_SHARE = 0.25
"""Of a row's seconds; the rest is for building the model and compiling."""
LEAST_STEPS = 3
TINY_BATCH = 2
BY_NAME = {model.name: model for model in MODELS}


@dataclass(frozen=True)
class Row:
    """A model and the way it trains."""

    label: str
    model: Model
    batch_size: int
    ways: Ways


SD15, SDXL, SD3, FLUX = (BY_NAME[name] for name in ("SD 1.5", "SDXL", "SD3 medium", "FLUX.1 dev"))
KEEPS = Ways(recomputes=False)
ROWS = (
    Row("SD 1.5 LoRA", SD15, 16, KEEPS),
    Row("SDXL LoRA", SDXL, 4, KEEPS),
    Row("FLUX.1 LoRA", FLUX, 2, Ways()),
    Row("SDXL LoRA, compiled", SDXL, 4, Ways(recomputes=False, compiles=True)),
    Row("SD 1.5 full", SD15, 32, Ways("full", recomputes=False, channels_last=True)),
    Row("SD3 medium LoRA", SD3, 4, KEEPS),
    Row("FLUX.1 LoRA, NF4", FLUX, 2, Ways(quantization="nf4")),
    Row("SD 1.5 LoRA, compiled, channels last", SD15, 16, Ways(recomputes=False, compiles=True, channels_last=True)),
    Row("FLUX.1 LoRA, offloaded", FLUX, 2, Ways(offload=True)),
    Row("SDXL full", SDXL, 4, Ways("full", channels_last=True)),
    Row("FLUX.1 LoRA, compiled", FLUX, 2, Ways(compiles=True)),
    Row("SDXL full, 8-bit AdamW", SDXL, 4, Ways("full", channels_last=True, optimizer="adamw8bit")),
)
HEAD = f"{'':37} {'pixels':>6} {'batch':>5} {'images/s':>9} {'MFU':>5} {'peak GB':>8} {'first s':>8} {'loss':>7}"


def take(row: Row, seconds: float, is_tiny: bool, answer: Connection) -> None:
    """Measure a row and send the figures, or what went wrong. Runs in a process of its own."""
    try:
        if is_tiny:
            found = tiny(row.model.family, TINY_BATCH, row.ways, steps=1)
        else:
            found = exact(row.model, row.batch_size, row.ways, steps=LEAST_STEPS, seconds=TIMED_SHARE * seconds)
        answer.send((found, None if is_tiny else torch.cuda.get_device_name()))
    except Exception as error:  # noqa: BLE001 - a row is told, and the others follow
        answer.send((f"{type(error).__name__}: {error}".splitlines()[0], None))


def taken(row: Row, seconds: float, *, is_tiny: bool) -> tuple[Figures | str, str | None]:
    """Return a row's figures with the GPU's name, or a sentence."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=take, args=(row, seconds, is_tiny, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(None if is_tiny else seconds):
            return f"not done after {seconds:g} s; give --seconds more", None
        return here.recv()
    except EOFError:
        process.join()
        return f"its process ended with {process.exitcode}", None
    finally:
        process.kill()
        process.join()


def line(row: Row, found: Figures | str, device: str | None) -> str:
    """Write a row."""
    start = f"{row.label:37} {row.model.resolution:>6} {row.batch_size:>5}"
    if isinstance(found, str):
        return f"{start} {found}"
    if device is None:
        figures = f"{TINY_BATCH / found.seconds:9.2f} {'':14} {found.first_seconds:8.1f} {found.loss:7.3f}"
        return f"{row.label:37} {'tiny':>6} {TINY_BATCH:>5} {figures}"
    peak = known_peak(device)
    speed = row.batch_size / found.seconds
    share = f"{speed * image_flops(row.model, row.ways) / peak:5.1%}" if peak else f"{'-':>5}"
    figures = f"{speed:9.2f} {share} {found.peak_bytes / 1e9:8.2f} {found.first_seconds:8.1f} {found.loss:7.3f}"
    return f"{start} {figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each row (40)")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="take the first so many (12)")
    parser.add_argument("--tiny", action="store_true", help="the tests' tiny models, on the CPU")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("There is no CUDA device; --tiny shows that the script works.")
        raise SystemExit(1)
    if options.tiny:
        torch.set_num_threads(1)
    print(HEAD, flush=True)
    is_named, num_failed = False, 0
    for row in ROWS[: options.rows]:
        found, device = taken(row, options.seconds, is_tiny=options.tiny)
        if device and not is_named:
            print(f"{device}, torch {torch.__version__}", flush=True)
            is_named = True
        num_failed += isinstance(found, str)
        print(line(row, found, device), flush=True)
    raise SystemExit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
