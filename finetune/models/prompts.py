"""Prompts for a denoiser, and their tokens.

Axes: B batch, C channels, H W latent height and width, L tokens, N chunks of a long prompt, D width, P pooled width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetune.models.rows import Rows, join_rows


@dataclass(frozen=True)
class Prompts(Rows):
    """The condition of the denoiser. What a family has no use for is None."""

    embeddings: Tensor
    """[B N*L D]."""
    mask: Tensor | None = None
    """[B N*L] where lengths differ; 1 keeps a token."""
    pooled: Tensor | None = None
    """[B P]."""
    sizes: Tensor | None = None
    """[B 6], whole pixels: height and width of the image, top and left of the crop in the image scaled to cover the
    bucket, height and width of the bucket."""
    filling: Tensor | None = None
    """[B 1+C H W] for inpainting: 1 where the image is hidden, else 0, then its latents with that part grey."""

    @staticmethod
    def from_entry(entry: Mapping[str, Tensor]) -> "Prompts":
        """Read one prompt from a cache's entry. Its tensors have no axis B."""
        return Prompts(**{name: value[None] for name, value in entry.items()})

    def entry(self) -> dict[str, Tensor]:
        """Give one prompt the form of a cache's entry."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column[0] for name, column in columns.items() if column is not None}


@dataclass(frozen=True)
class Tokens(Rows):
    """Prompts before text encoders that train have encoded them; `Network` does it."""

    ids: dict[int, Tensor]
    """[B N L] by the number of the tokenizer."""
    chunks: Tensor
    """[B], how many of the N chunks a prompt fills."""
    mask: Tensor | None = None
    """[B N L], 1 where a token is not padding, for families whose ids do not say so."""
    encoded: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """[B L D], the output of text encoders that never train, by their number."""
    empty: Tensor | None = None
    """[B], true for prompts without a word, for families that treat them apart."""
    sizes: Tensor | None = None
    filling: Tensor | None = None


Condition = Prompts | Tokens
"""What `Network` takes."""


def whole_sizes(num: int, height: int, width: int) -> Tensor:
    """Make `Prompts.sizes` [num 6] of images that are neither scaled nor cropped."""
    return torch.tensor([[height, width, 0, 0, height, width]]).expand(num, -1)


def length_mask(lengths: Tensor, longest: int) -> Tensor | None:
    """Make the mask [B longest] of the first lengths[b] tokens. It is None where nothing is hidden."""
    if bool((lengths == longest).all()):
        return None
    return (torch.arange(longest, device=lengths.device) < lengths[:, None]).long()


def guided_arguments(embeddings: Tensor, pooled: Tensor | None = None) -> dict[str, object]:
    """Name a prompt and its negative, encoded together, as diffusers' pipelines do."""
    found: dict[str, object] = {"prompt_embeds": embeddings[:1], "negative_prompt_embeds": embeddings[1:]}
    if pooled is not None:
        found |= {"pooled_prompt_embeds": pooled[:1], "negative_pooled_prompt_embeds": pooled[1:]}
    return found


def join_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Put prompts behind each other. Shorter ones get zeros that a mask hides."""
    longest = max(part.embeddings.shape[1] for part in parts)
    if all(part.mask is None and part.embeddings.shape[1] == longest for part in parts):
        return join_rows(parts)
    padded: list[Prompts] = []
    for part in parts:
        missing = longest - part.embeddings.shape[1]
        mask = part.mask
        if mask is None:
            mask = torch.ones(part.embeddings.shape[:2], dtype=torch.long, device=part.embeddings.device)
        padded.append(replace(part, embeddings=pad(part.embeddings, (0, 0, 0, missing)), mask=pad(mask, (0, missing))))
    return join_rows(padded)
