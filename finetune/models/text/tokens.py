"""New tokens of a text encoder: their place in the tokenizer, their vectors beside the encoder's table, and prompts
that name a token once for all its vectors.

Axes: V new vectors, L tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.randomness import generator


class TokenEmbedding(nn.Module):
    """Stands in place of a text encoder's token embedding: the table as it is, and new rows behind it.

    The rows are the one parameter that trains, so that checkpoints, averages and optimizers hold nothing else.
    """

    def __init__(self, table: nn.Embedding, first: int, num_rows: int) -> None:
        super().__init__()
        self.table = table
        self.first = first
        """Number of the first new token; the table may have spare rows from here on, which no caption reaches."""
        self.rows = nn.Parameter(table.weight.new_zeros(num_rows, table.embedding_dim), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the vectors [... L D] of tokens ids [... L], in the table's dtype."""
        is_new = ids >= self.first
        known = self.table(ids.masked_fill(is_new, 0))
        new = nn.functional.embedding((ids - self.first).clamp(min=0), self.rows).to(known.dtype)
        return torch.where(is_new[..., None], new, known)


def add_tokens(tokenizer: Any, text_encoder: Any, words: Sequence[str]) -> TokenEmbedding:
    """Gives the tokenizer new words and the text encoder zero vectors for them; returns the latter."""
    first = len(tokenizer)
    added = tokenizer.add_tokens(list(words))
    ids = tokenizer.convert_tokens_to_ids(list(words))
    assert added == len(words) and ids == list(range(first, first + len(words))), (words, ids)
    embedding = TokenEmbedding(text_encoder.get_input_embeddings(), first, len(words))
    text_encoder.set_input_embeddings(embedding)
    return embedding


def is_known(tokenizer: Any, word: str) -> bool:
    """True where the tokenizer has the word as one token of its own."""
    return word in tokenizer.get_vocab() or len(tokenizer.tokenize(word)) == 1


def word_pieces(tokenizer: Any, text: str) -> list[list[str]]:
    """Returns the tokens that each word of the text falls into."""
    return [tokenizer.tokenize(word) for word in text.split()]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Returns the numbers of a text's tokens, without start and end."""
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


@torch.no_grad()
def spread(vectors: Tensor, num: int) -> Tensor:
    """Returns [num D] from [K D]: vector i is the mean of those that overlap its share [i K / num, (i + 1) K / num).

    So K = num keeps them, more are averaged in neighbouring groups, and fewer are repeated in order with means between.
    """
    count = len(vectors)
    shares = [(place * count // num, -(-(place + 1) * count // num)) for place in range(num)]
    return torch.stack([vectors[start:end].mean(0) for start, end in shares])


@torch.no_grad()
def drawn_like(table: Tensor, num: int, seed: int, name: str) -> Tensor:
    """Returns normal vectors [num D] with the mean and spread that the table's rows have in each dimension."""
    deviation, mean = torch.std_mean(table.float(), dim=0)
    normal = torch.randn(num, table.shape[1], generator=generator(seed, "tokens", name))
    return mean + deviation * normal.to(table.device)


def with_all_vectors(tokenizer: Any, prompt: str) -> str:
    """Returns the prompt with "NAME NAME_1 NAME_2" for every NAME of a token of three vectors, and so on.

    As diffusers' `maybe_convert_prompt` does in pipelines that loaded such tokens, but in a fixed order.
    """
    known = tokenizer.added_tokens_encoder
    for name in sorted(known):
        words = [name]
        while f"{name}_{len(words)}" in known:
            words.append(f"{name}_{len(words)}")
        if len(words) > 1:
            prompt = prompt.replace(name, " ".join(words))
    return prompt
