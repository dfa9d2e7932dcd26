"""Rare words for a subject: one token that the model hardly knows.

DreamBooth (arXiv 2208.12242, section 3.2) asks for a rare token: a made-up word falls apart into common tokens, and a
common word brings its own meaning. What is rare is read off the tokenizer, without a list of words:

* A byte-pair tokenizer merges the most frequent pair first (arXiv 1508.07909), so a token's number is its
  rank by frequency; a rare one is in the last third.
* It ends a word, has three or four letters a to z, is one token when it is read again, and no longer token begins with
  it: what words are built from has a meaning.
* It has none of a, e, i, o, u, y, so it is not an English word or a name that one could speak, and not one letter
  alone ("zzzz").

Where the text encoder's weights are at hand, candidates are sorted by the length of their embedding over the median
length: weight decay shrinks what training seldom touches, and such tokens carry the least (arXiv 2405.05417 finds
undertrained tokens so). Otherwise the last merged comes first. None of this knows what the token means in images
("jpg", a football club): draw it with the base model before you choose.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from finetune.config.dreambooth import words
from finetune.models.interfaces import Tokenizer
from finetune.models.text.tokens import token_ids

WORD_END = "</w>"
RARE_SHARE = 1 / 3


@dataclass(frozen=True)
class RareToken:
    """A proposed word; `reason` says what makes it rare."""

    text: str
    number: int
    reason: str


def rare_tokens(tokenizer: Tokenizer, num: int, lengths: Tensor | None) -> list[RareToken]:
    """List the `num` rarest words of a tokenizer. `lengths` are as of `embedding_lengths`."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    size = len(vocabulary)
    begins = {
        token[:length]
        for token in vocabulary
        for length in (3, 4)
        if token not in (token[:length], token[:length] + WORD_END)
    }
    found = []
    for token, number in vocabulary.items():
        text = token.removesuffix(WORD_END)
        if not (token.endswith(WORD_END) and is_rare(number, size) and re.fullmatch("[b-df-hj-np-tv-xz]{3,4}", text)):
            continue
        if text in vocabulary or text in begins or len(set(text)) == 1 or token_ids(tokenizer, text) != [number]:
            continue
        reason = f"token {number:,} of {size:,} by frequency, whole, no vowel, begins no longer token"
        if lengths is not None:
            reason += f", embedding {lengths[number]:.2f} of the median"
        found.append(RareToken(text, number, reason))
    found.sort(key=lambda t: -t.number if lengths is None else float(lengths[t.number]))
    return found[:num]


def is_rare(number: int, size: int) -> bool:
    """True for a token of the last third of the vocabulary."""
    return number >= size * (1 - RARE_SHARE)


def common_words_warning(tokenizers: Sequence[Tokenizer], prompt: str, location: str) -> str | None:
    """Warn of an instance prompt whose words are all common tokens. A word of several tokens counts as rare here: it
    says little by itself, though it takes more of the prompt."""
    tokenizer = tokenizers[0]
    size = len(tokenizer.get_vocab())
    for word in words(prompt):
        numbers = token_ids(tokenizer, word)
        if len(numbers) > 1 or is_rare(numbers[0], size):
            return None
    return (
        f'instance.prompt: every word of "{prompt}" is a common token of this model, and what it means already '
        f"competes with your subject. `finetune doctor tokens --model.source {location}` proposes rare ones."
    )


def embedding_lengths(folder: Path) -> Tensor | None:
    """Measure token embeddings over their median [vocabulary]. None without a local model's weights."""
    for path in sorted((folder / "text_encoder").glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a dict)
                if name.endswith("token_embedding.weight"):
                    lengths = weights.get_tensor(name).float().norm(dim=1)
                    return lengths / lengths.median()
    return None
