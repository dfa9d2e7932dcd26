"""Masks cut like the image's view, at the resolution of its latents."""

from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from finetune.batches.store import cache_key
from finetune.batches.view import View
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import ImageSource
from finetune.data.manifest import Record
from finetune.data.masks import cut_mask, open_mask


@dataclass(frozen=True)
class LatentMasks:
    """The masks of a run. Workers of the data loader get a pickled copy."""

    kind: Literal["alpha", "file"]
    source: ImageSource
    pixel_multiple: int
    """Pixels per latent, along each side."""

    def key(self, record: Record, view: View) -> str:
        """Make the cache key of a view's mask."""
        return cache_key("mask", self.kind, record.mask and record.mask.sha256, view, self.pixel_multiple)

    def read(self, record: Record, view: View) -> Tensor:
        """Compute the trained share [1 H W] of each latent's area. It is 1 without a mask. Raises ValueError if the
        mask has changed since it was listed."""
        return self.cut(self.open(record, KeptFiles()), view)

    def open(self, record: Record, kept: KeptFiles) -> Image.Image | None:
        """Decode the mask of an image that has one."""
        if record.mask is None:
            return None
        mask = open_mask(kept.read(self.source, record.mask.file_name, record.mask.sha256), self.kind)
        assert mask is not None, record.mask.file_name
        return mask

    def cut(self, mask: Image.Image | None, view: View) -> Tensor:
        """Cut a decoded mask to a view; `read` describes the result."""
        if mask is None:
            return torch.ones(1, view.height // self.pixel_multiple, view.width // self.pixel_multiple)
        multiple = self.pixel_multiple
        shares = cut_mask(
            mask, view.width, view.height, left=view.left, top=view.top, flip=view.flip, pixel_multiple=multiple
        )
        return torch.as_tensor(shares)[None]
