"""New tokens of a text encoder: tokenizer, vectors and prompts.

Axes: V new vectors, L tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.models.interfaces import TextEncoder, Tokenizer
from finetune.randomness import generator


class TokenEmbedding(nn.Module):
    """A text encoder's token embedding with new rows behind the table. The rows are the one parameter that trains, so
    that checkpoints, averages and optimizers hold nothing else."""

    def __init__(self, table: nn.Embedding, first: int, num_rows: int) -> None:
        super().__init__()
        self.table = table
        self.first = first
        """Number of the first new token; the table may have spare rows from here on, which no caption reaches."""
        self.rows = nn.Parameter(table.weight.new_zeros(num_rows, table.embedding_dim), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the vectors [... L D] of ids [... L]. They have the table's dtype."""
        is_new = ids >= self.first
        known = self.table(ids.masked_fill(is_new, 0))
        new = nn.functional.embedding((ids - self.first).clamp(min=0), self.rows).to(known.dtype)
        return torch.where(is_new[..., None], new, known)


def add_tokens(tokenizer: Tokenizer, text_encoder: TextEncoder, words: Sequence[str]) -> TokenEmbedding:
    """Add words to the tokenizer, with zero vectors in the text encoder. Return the vectors."""
    first = len(tokenizer)
    added = tokenizer.add_tokens(list(words))
    ids = tokenizer.convert_tokens_to_ids(list(words))
    assert added == len(words) and ids == list(range(first, first + len(words))), (words, ids)
    embedding = TokenEmbedding(text_encoder.get_input_embeddings(), first, len(words))
    text_encoder.set_input_embeddings(embedding)
    return embedding


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """List the numbers of a text's tokens, without start and end."""
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


@torch.no_grad()
def spread(vectors: Tensor, num: int) -> Tensor:
    """Average [K D] to [num D]. Vector i is the mean of those that overlap its share [i K / num, (i + 1) K / num). So K
    = num keeps them, more are averaged in neighbouring groups, and fewer are repeated in order with means between."""
    count = len(vectors)
    shares = [(place * count // num, -(-(place + 1) * count // num)) for place in range(num)]
    return torch.stack([vectors[start:end].mean(0) for start, end in shares])


@torch.no_grad()
def drawn_like(table: Tensor, num: int, seed: int, name: str) -> Tensor:
    """Draw normal vectors [num D] like the table's rows. They have their mean and spread in each dimension."""
    deviation, mean = torch.std_mean(table.float(), dim=0)
    normal = torch.randn(num, table.shape[1], generator=generator(seed, "tokens", name))
    return mean + deviation * normal.to(table.device)


def with_all_vectors(tokenizer: Tokenizer, prompt: str) -> str:
    """Write NAME as "NAME NAME_1 NAME_2" where it has three vectors. As diffusers' `maybe_convert_prompt` does in
    pipelines that loaded such tokens, but in a fixed order."""
    known = tokenizer.added_tokens_encoder
    for name in sorted(known):
        words = [name]
        while f"{name}_{len(words)}" in known:
            words.append(f"{name}_{len(words)}")
        if len(words) > 1:
            prompt = prompt.replace(name, " ".join(words))
    return prompt
