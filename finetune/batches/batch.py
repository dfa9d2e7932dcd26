"""A batch: references to samples, and their tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from finetune.batches.batch_errors import naming_images
from finetune.batches.inpaint_masks import Filling
from finetune.data.manifest import Record
from finetune.models.prompts import Prompts, join_prompts
from finetune.models.rows import Rows, join_rows


@dataclass(frozen=True)
class Batch(Rows):
    """One process's part of a global batch, or a single sample. Columns that are not cached are None. latents [B C H W]
    or pixels [B 3 h w]; weight [B]; sizes [B 6] as in `Prompts`; mask [B 1 H W], 1 where the image is trained on. One
    more value per sample is one more field here."""

    indices: tuple[int, ...]
    positions: tuple[int, ...]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    weight: Tensor
    sizes: Tensor
    latents: Tensor | None
    pixels: Tensor | None
    prompts: Prompts | None
    mask: Tensor | None = None
    filling: Filling | None = None

    def micro_batches(self, num: int) -> "list[Batch]":
        """Cut the batch into `num` equal parts in order."""
        size = -(-len(self.indices) // num)
        return [self.part(slice(start, start + size)) for start in range(0, len(self.indices), size)]


def collate(samples: Sequence[Batch]) -> Batch:
    """Join samples of one bucket; shorter prompts are padded."""
    prompts = [sample.prompts for sample in samples if sample.prompts is not None]
    joined = join_rows([replace(sample, prompts=None) for sample in samples])
    return replace(joined, prompts=join_prompts(prompts) if prompts else None)


def collate_by_name(records: Sequence[Record], samples: Sequence[Batch]) -> Batch:
    """Join samples of one bucket; running out of memory names their images."""
    with naming_images(
        "put together in a batch", lambda: [records[index].file_name for sample in samples for index in sample.indices]
    ):
        return collate(samples)
