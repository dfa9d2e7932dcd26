"""Peaks of devices, and the arithmetic of a run."""

from dataclasses import replace

import torch

from finetune.methods.base import TuningMethod
from finetune.session import LoadedModel, Run, TrainingData, Work
from finetune.sizing.flops import training_flops
from finetune.sizing.model import on_meta

TERA = 1e12
PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 80GB HBM3": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H20": 148,
    "A100": 312,
    "A30": 165,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""TFLOP/s of products in 16 bits that add up in float32, without sparsity, from NVIDIA's data sheets."""


def peak_flops(stated: float | None, device: torch.device, precision: str) -> float | None:
    """Return the device's FLOP/s, stated in TFLOP/s or known. Only those of 16 bits are known."""
    if stated is not None:
        return stated * TERA
    if device.type != "cuda" or precision == "no":
        return None
    return known_peak(torch.cuda.get_device_name(device))


def known_peak(name: str) -> float | None:
    """Find a GPU by torch's name of it. The laptop version of a card is another one."""
    words = f" {name.replace('-', ' ')} "
    found = [peak for known, peak in PEAKS.items() if f" {known} " in words]
    return found[0] * TERA if found and "laptop" not in words.lower() else None


def work(run: Run, model: LoadedModel, data: TrainingData, method: TuningMethod) -> Work | None:
    """Count what training takes, where the device's peak is known. The main process alone does it."""
    stated = run.config.train.peak_tflops
    peak = peak_flops(stated, run.accelerator.device, run.accelerator.mixed_precision)
    if peak is None or not run.accelerator.is_main_process:
        return None
    components = on_meta(run.family, replace(model.source, as_stored=True))
    sizes = {(views[0].width, views[0].height) for views in data.dataset.views.values()}
    flops = training_flops(run.family, components, method, run.config.seed, sizes)
    if stated is not None and not flops:
        run.warn(["train.peak_tflops: given, but the arithmetic of autoencoders is not counted, so no mfu is logged."])
    return Work(flops, peak * run.accelerator.num_processes) if flops else None
