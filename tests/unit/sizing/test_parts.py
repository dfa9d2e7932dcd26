from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models.blocks import sharded_blocks
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.processes.sharding_request import Sharding
from finetune.setup.sharding import shard
from finetune.sizing.model import on_meta
from finetune.sizing.parts import gathered_together, in_parts, num_bytes
from finetune.sizing.step import Precision, built_network
from tests.unit.sizing.test_step import CONFIG

FAMILY = StableDiffusion()
NUM = 3
"""Processes; few weights have a number of rows that it divides."""


@pytest.fixture
def group() -> Iterator[None]:
    """The first of three processes; nothing is sent."""
    torch.distributed.init_process_group("fake", rank=0, world_size=NUM, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.usefixtures("group")
def test_planned_parts_are_those_that_the_first_process_holds(tiny_model: Path, adapters: bool) -> None:
    source, method = ModelSource(str(tiny_model)), LoRA(CONFIG.lora) if adapters else Full()
    planned_on = built_network(FAMILY, on_meta(FAMILY, source), method, CONFIG, Precision(torch.float32, "cpu"))
    denoiser = planned_on.denoiser
    held = in_parts(planned_on, denoiser, sharded_blocks(FAMILY, denoiser), NUM, reshards=True)
    real = method.network(FAMILY, FAMILY.load(source))
    method.attach(real, 0)
    shard(real, FAMILY, torch.device("cpu"), NUM, Sharding(reshards=True))
    parts = {True: 0, False: 0}
    for parameter in real.parameters():
        assert isinstance(parameter, DTensor)
        parts[parameter.requires_grad] += parameter.to_local().numel() * parameter.itemsize
    assert (num_bytes(held.trained), num_bytes(held.frozen)) == (parts[True], parts[False])


def test_weights_are_gathered_with_their_innermost_block() -> None:
    inner = nn.Linear(4, 4, bias=False)
    outer = nn.Sequential(inner, nn.Linear(4, 2, bias=False))
    denoiser = nn.Sequential(outer, nn.Linear(2, 3, bias=False))
    groups = gathered_together(denoiser, [outer, inner])
    shapes = {module: [tuple(each.shape) for each in group] for module, group in groups.items()}
    assert shapes == {inner: [(4, 4)], outer: [(2, 4)], denoiser: [(3, 2)]}


def test_what_is_whole_for_a_moment_is_counted() -> None:
    first, second = nn.Linear(100, 100, bias=False), nn.Linear(100, 50, bias=False)
    outside = nn.Linear(50, 5, bias=False)
    denoiser = nn.Sequential(first, second.requires_grad_(False), outside)
    for reshards, whole in ((True, 40_000 + 1_000 + 40_000), (False, 61_000 + 40_000)):
        assert in_parts(denoiser, denoiser, [first, second], 2, reshards=reshards).gathered == whole + 2 * 40_000
