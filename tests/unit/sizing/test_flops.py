from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune.config.lora import LoRAConfig
from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.prompts import whole_sizes
from finetune.sizing.flops import ATTENTION, interpolated, training_flops
from finetune.sizing.model import on_meta
from finetune.sizing.work import known_peak, peak_flops
from tests.support.families import TINY_FAMILIES, save_tiny_pipeline

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_a_real_step_computes_what_is_counted(name: str, tmp_path: Path) -> None:
    family, source = family_named(name), ModelSource(str(save_tiny_pipeline(name, tmp_path / "model")))
    components, method = family.load(source), LoRA(LoRAConfig(rank=2))
    pixels = family.pixels_per_latent(components.vae)
    size = 16 * pixels, 24 * pixels
    counted = training_flops(family, on_meta(family, source), method, 0, [size])[size]
    network = method.network(family, components)
    method.attach(network, 0)
    with torch.no_grad():
        prompts = family.encode_prompts(components.text_encoders, family.tokenize(components.tokenizers, ["a"]))
    prompts = replace(prompts, sizes=whole_sizes(1, size[1], size[0]))
    noisy = torch.randn(1, components.vae.config.latent_channels, 24, 16)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        torch.autograd.backward(network(noisy, torch.tensor([500]), prompts).sum())
    assert counted == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_other_sizes_follow_from_three(name: str, tmp_path: Path) -> None:
    family, source = family_named(name), ModelSource(str(save_tiny_pipeline(name, tmp_path / "model")))
    components, method = on_meta(family, source), Full()
    pixels = family.pixels_per_latent(components.vae)
    sizes = [(8 * pixels * wide, 8 * pixels * high) for wide, high in [(1, 1), (1, 2), (1, 3), (2, 2)]]
    together = training_flops(family, components, method, 0, sizes)
    assert together[sizes[1]] == pytest.approx(
        training_flops(family, components, method, 0, [sizes[1]])[sizes[1]], rel=1e-9
    )


def test_three_sizes_at_most_are_counted() -> None:
    seen: list[tuple[int, int]] = []
    sizes = [(8, 8), (8, 16), (16, 8), (16, 16), (32, 32)]
    found = interpolated(sizes, lambda size: seen.append(size) or 1.0)
    assert len(seen) == 3 and list(found) == sizes


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A1000", None),
    ],
)
def test_gpus_are_known_by_whole_words(name: str, teraflops: float | None) -> None:
    assert known_peak(name) == (None if teraflops is None else teraflops * 1e12)


def test_a_stated_peak_wins_and_a_cpu_has_none() -> None:
    assert peak_flops(2.0, CPU, "no") == 2e12
    assert peak_flops(None, CPU, "bf16") is None
