"""Prompts for T5: its tokenizer, and tokens of a fixed length."""

import importlib.util
from collections.abc import Sequence

from torch import Tensor
from transformers import T5Tokenizer

from finetune.models.family import ModelSource
from finetune.models.interfaces import Tokenizer
from finetune.models.loading.components import load_part
from finetune.models.loading.part_files import part_files


def load_t5_tokenizer(source: ModelSource, part: str) -> Tokenizer:
    """Load the tokenizer of that part; refuse one without vocabulary."""
    refuse_unreadable(source, part)
    tokenizer = load_part(T5Tokenizer, source, part)
    if tokenizer.unk_token_id in tokenizer("a").input_ids:  # transformers 5 makes an empty one where there are no files
        raise ValueError(
            f"model.source: {part} of {source.location} does not know the letter a; is {part}/tokenizer.json or "
            "spiece.model there and complete?"
        )
    return tokenizer


def refuse_unreadable(source: ModelSource, part: str) -> None:
    """Refuse a vocabulary in a format whose library is not installed."""
    folder = part_files(source, part, has_weights=False).root / part
    has_json, has_pieces = ((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))
    if has_pieces and not has_json and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            f"model.source: {part} of {source.location} has spiece.model and no tokenizer.json, and reading that needs "
            "sentencepiece. Run: pip install sentencepiece; or put the tokenizer.json of the same T5 beside it."
        )


def cut_tokens(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> Tensor:
    """Split captions into tokens [B 1 length], start and end included. Longer ones are cut, shorter ones padded."""
    found = tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt", verbose=False
    )
    return found.input_ids[:, None]


def longer_than(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> list[str]:
    """List the captions that `cut_tokens` cuts."""
    if not captions:
        return []
    rows = tokenizer(list(captions), padding=False, truncation=False, verbose=False).input_ids
    return [caption for caption, row in zip(captions, rows, strict=True) if len(row) > length]
