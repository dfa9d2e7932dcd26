from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.data._utils import pin_memory

from finetune.batches.batch import Batch, collate
from finetune.batches.inpaint_masks import Filling
from finetune.models.prompts import Prompts, join_prompts


@dataclass(frozen=True)
class Scored(Batch):
    score: Tensor | None = None
    sources: tuple[str, ...] = ()


def sample(number: int, length: int) -> Scored:
    one = torch.full((1, 2), float(number))
    return Scored(
        indices=(number,),
        positions=(number + 10,),
        captions=(f"caption {number}",),
        keys=(f"key {number}",),
        weight=torch.tensor([number + 0.5]),
        sizes=torch.full((1, 6), number),
        latents=one,
        pixels=None,
        prompts=Prompts(torch.full((1, length, 1), float(number)), pooled=one),
        filling=Filling((f"hole {number}",), None, one),
        score=one * 100,
        sources=(f"source {number}",),
    )


@pytest.fixture
def batch() -> Batch:
    return collate([sample(number, length=number + 1) for number in range(4)])


def test_a_field_that_is_added_is_joined_cut_and_moved(batch: Batch) -> None:
    assert isinstance(batch, Scored) and batch.score is not None and batch.pixels is None
    assert batch.score[:, 0].tolist() == [0, 100, 200, 300] and batch.sources[3] == "source 3"
    _, second = batch.micro_batches(2)
    assert isinstance(second, Scored) and second.score is not None
    assert second.score[:, 0].tolist() == [200, 300] and second.sources == ("source 2", "source 3")
    moved = second.to(torch.device("meta"))
    assert moved.score is not None and moved.score.is_meta and moved.sources == second.sources


def test_what_is_nested_follows(batch: Batch) -> None:
    assert batch.prompts is not None and batch.filling is not None and batch.filling.holes is not None
    assert batch.prompts.embeddings.shape == (4, 4, 1) and batch.prompts.mask.sum(1).tolist() == [1, 2, 3, 4]
    part = batch.micro_batches(3)[1]
    assert part.indices == (2, 3) and part.positions == (12, 13) and part.captions[0] == "caption 2"
    assert part.prompts is not None and part.prompts.pooled[:, 0].tolist() == [2, 3]
    assert part.filling is not None and part.filling.holes is not None and part.filling.encoded is None
    assert part.filling.keys == ("hole 2", "hole 3") and part.filling.holes[:, 0].tolist() == [2, 3]
    moved = part.to(torch.device("meta"))
    assert moved.prompts is not None and moved.filling is not None and moved.filling.holes is not None
    assert moved.weight.is_meta and moved.prompts.mask.is_meta and moved.filling.holes.is_meta


class Pinnable(Tensor):
    """A tensor that shows that it was pinned. That takes a GPU otherwise."""

    def pin_memory(self, device: object = None) -> Tensor:
        return self.as_subclass(Tensor) + 1000


def test_a_dataloader_pins_every_tensor_of_a_batch(batch: Batch) -> None:
    held = batch.map(lambda column: column.as_subclass(Pinnable) if isinstance(column, Tensor) else column)
    pinned = pin_memory.pin_memory(held)
    assert isinstance(pinned, Scored) and pinned.prompts is not None and pinned.filling is not None
    for found in (pinned.weight, pinned.latents, pinned.score, pinned.prompts.embeddings, pinned.filling.holes):
        assert found is not None and bool((found >= 1000).all())
    assert pinned.captions == batch.captions


def test_the_mask_of_joined_prompts_is_on_their_device() -> None:
    short, long = (Prompts(torch.zeros(1, length, 2, device="meta")) for length in (77, 154))
    joined = join_prompts([short, long])
    assert joined.mask is not None and joined.mask.is_meta and joined.embeddings.shape == (2, 154, 2)


def test_prompts_that_are_joined_again_keep_what_was_hidden() -> None:
    rows = [Prompts(torch.full((1, length, 1), float(length))) for length in (1, 3, 2)]
    twice, once = join_prompts([join_prompts(rows[:2]), rows[2]]), join_prompts(rows)
    assert twice.mask is not None and once.mask is not None
    assert torch.equal(twice.mask, once.mask) and torch.equal(twice.embeddings, once.embeddings)
