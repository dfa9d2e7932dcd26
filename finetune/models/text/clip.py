"""Prompts for CLIP text encoders: tokenizers, and captions as chunks."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from finetune.models.family import ModelSource
from finetune.models.interfaces import TextEncoder, Tokenizer
from finetune.models.loading.components import load_part
from finetune.models.text.tokens import with_all_vectors

NUM_BYTE_TOKENS = 512
OLD_END = 2
"""The number of the end token in CLIP's own, old configs, which is wrong."""
CLIP_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def load_clip_tokenizer(source: ModelSource, part: str) -> Tokenizer:
    """Load the tokenizer of that part; refuse one without vocabulary."""
    tokenizer = load_part(CLIPTokenizer, source, part)
    if len(tokenizer) < NUM_BYTE_TOKENS:  # transformers 5 makes an empty one where there are no files
        raise ValueError(
            f"model.source: the tokenizer of {source.location} knows {len(tokenizer)} tokens, expected more than "
            f"the {NUM_BYTE_TOKENS} of single bytes; is {part}/vocab.json there and complete?"
        )
    return tokenizer


def refuse_other_vocabulary(
    source: ModelSource, part: str, tokenizer: Tokenizer, text_encoder: TextEncoder, file: str = "vocab.json"
) -> None:
    """Refuse a text encoder made for another tokenizer. The tokenizer's words are in `file`."""
    words, known = len(tokenizer), text_encoder.config.vocab_size
    if not known // 2 < words <= known:
        raise ValueError(
            f"model.source: the tokenizer of {source.location} knows {words} tokens, its text encoder {known}; is "
            f"{part}/{file} complete?"
        )
    end = text_encoder.config.eos_token_id
    if end not in (OLD_END, tokenizer.eos_token_id):
        raise ValueError(
            f"model.source: a text encoder of {source.location} takes token {end} for the end of a prompt, its "
            f"{part} {tokenizer.eos_token_id}. Put back the eos_token_id that was published with the model."
        )


def pool_at_end(text_encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    """Correct CLIP's old, wrong number of the end token (2). transformers then takes the highest number for the end,
    which it is until new tokens have higher ones."""
    inner = cast("CLIPTextModel", text_encoder.text_model)
    if inner.eos_token_id == OLD_END:
        inner.eos_token_id = tokenizer.eos_token_id


def clip_chunks(tokenizer: Tokenizer, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Split captions into tokens [B N L], and count the chunks [B]. None is cut."""
    length = tokenizer.model_max_length
    rows = []
    texts = [with_all_vectors(tokenizer, caption) for caption in captions]
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids:
        pieces = [ids[start : start + length - 2] for start in range(0, max(len(ids), 1), length - 2)]
        rows.append([_chunk(tokenizer, piece) for piece in pieces])
    longest = max(map(len, rows))
    empty = _chunk(tokenizer, [])
    tokens = torch.tensor([row + [empty] * (longest - len(row)) for row in rows])
    return tokens, torch.tensor([len(row) for row in rows])


def paired_chunks(tokenizers: Sequence[Tokenizer], captions: Sequence[str]) -> tuple[list[Tensor], Tensor]:
    """Split captions into equally many chunks for each tokenizer. They differ: where "!" pads, "!!" is two tokens."""
    found = [clip_chunks(tokenizer, captions) for tokenizer in tokenizers]
    chunks = torch.stack([num for _, num in found]).amax(0)
    longest, same = int(chunks.max()), []
    for tokenizer, (tokens, _) in zip(tokenizers, found, strict=True):
        empty = torch.tensor(_chunk(tokenizer, []))
        same.append(torch.cat([tokens, empty.expand(len(tokens), longest - tokens.shape[1], -1)], dim=1))
    return same, chunks


def _chunk(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    padding = tokenizer.model_max_length - 2 - len(ids)
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
