from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from finetune.config.optim import OptimConfig
from finetune.optim.build import build_optimizer
from finetune.optim.groups import ParamGroup, usual_groups
from finetune.optim.muon import orthogonal, orthogonal_together, shared_out
from tests.support.runs import differing

CONFIG = OptimConfig(name="muon", lr=1e-2, weight_decay=0.0)


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix.float())


def test_singular_values_of_every_shape_come_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 120), (24, 200), (200, 24)):
        matrix = torch.randn(shape, generator=generator)
        values = singular_values(orthogonal(matrix))
        assert (values > 0.5).all() and (values < 1.3).all()
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(orthogonal(matrix).flatten().float(), (left @ right).flatten(), 0)
            > 0.95
        )


def test_updates_of_matrices_are_as_large_as_those_of_adamw() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 48, 3)
    before = convolution.weight.detach().clone()
    optimizer = build_optimizer([ParamGroup("denoiser", list(convolution.parameters()), CONFIG.lr)], CONFIG)
    convolution(torch.randn(2, 32, 8, 8)).square().sum().backward()
    optimizer.step()
    update = (convolution.weight - before).detach().flatten(1)
    assert 0.15 < update.square().mean().sqrt() / CONFIG.lr < 0.25
    values = singular_values(update)
    assert values.max() < 2 * values.min()
    assert set(optimizer.state[convolution.weight]) == {"step", "momentum"}
    assert "exp_avg" in optimizer.state[convolution.bias]


def test_embeddings_are_left_to_adamw() -> None:
    torch.manual_seed(0)
    parts = nn.Module()
    parts.denoiser = nn.Linear(8, 8)
    parts.text_encoders = nn.ModuleList([nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8, bias=False))])
    groups = usual_groups(parts, CONFIG)
    assert [group.name for group in groups] == ["denoiser", "text_encoder", "text_encoder_embeddings"]
    optimizer = build_optimizer(groups, CONFIG)
    parts.text_encoders[0](torch.tensor([3])).square().sum().backward()
    table = parts.text_encoders[0][0].weight
    before = table.detach().clone()
    optimizer.step()
    assert (table != before).any(1).tolist() == [row == 3 for row in range(10)]
    others = usual_groups(parts, OptimConfig())
    assert [group.name for group in others] == ["denoiser", "text_encoder"]


def test_a_loaded_state_continues_bit_for_bit() -> None:
    def run(steps: range, state: dict[str, object] | None, layer: nn.Module) -> torch.optim.Optimizer:
        optimizer = build_optimizer([ParamGroup("denoiser", list(layer.parameters()), CONFIG.lr)], CONFIG)
        if state:
            optimizer.load_state_dict(state)
        for step in steps:
            layer(torch.full((4, 16), float(step))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return optimizer

    torch.manual_seed(0)
    whole, halves = nn.Linear(16, 16), nn.Linear(16, 16)
    halves.load_state_dict(whole.state_dict())
    run(range(6), None, whole)
    first = run(range(3), None, halves)
    run(range(3, 6), first.state_dict(), halves)
    assert not differing(whole.state_dict(), halves.state_dict())


def test_processes_share_the_matrices_by_their_cost() -> None:
    assert shared_out([5, 9, 1, 3], 2) == [1, 0, 1, 1]
    assert shared_out([1, 1], 1) == [0, 0]


def matrices() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((8, 30), (40, 16), (16, 16), (6, 6))]


def check_shared(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    shared = orthogonal_together(matrices())
    assert all(torch.equal(a, orthogonal(b)) for a, b in zip(shared, matrices(), strict=True))
    dist.destroy_process_group()


def test_shared_work_gives_what_one_process_computes(tmp_path: Path) -> None:
    multiprocessing.spawn(check_shared, (str(tmp_path / "store"),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
