"""A tiny T5 encoder and its tokenizer, for pipelines with T5."""

import functools
import string
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny.sd import CAPTIONS

SPECIAL = ("<pad>", "</s>", "<unk>")
"""In this order, by which T5 knows them."""


def build_t5(tokenizer: T5Tokenizer, *, width: int = 32) -> T5EncoderModel:
    """Build a T5 encoder of two layers. They are gated as in version 1.1, and have no dropout."""
    sizes: dict[str, Any] = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 2, "num_heads": 4}
    ids: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    config = T5Config(**sizes, **ids, feed_forward_proj="gated-gelu")
    return T5EncoderModel(config).eval()  # as a loaded one


def train_t5_tokenizer() -> T5Tokenizer:
    """Train a T5 tokenizer on CAPTIONS. It has pieces of words and all printable ASCII characters."""
    return T5Tokenizer(vocab=list(learned_pieces()), extra_ids=0, model_max_length=512)


@functools.cache
def learned_pieces() -> tuple[tuple[str, float], ...]:
    """Return pieces with the logarithm of their probability."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    alphabet = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=list(SPECIAL), unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    scores = dict(tokenizer.get_vocab())
    ordered = sorted(scores, key=scores.__getitem__)
    return tuple((piece, 0.0 if piece in SPECIAL else -1.0 - 0.01 * rank) for rank, piece in enumerate(ordered))
