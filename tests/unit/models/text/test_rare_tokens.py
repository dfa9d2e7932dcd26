from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import CLIPTokenizer

from finetune.models.text.rare_tokens import common_words_warning, embedding_lengths, rare_tokens
from finetune.models.text.tokens import token_ids
from tests.tiny.sd import train_tokenizer

ROOT = Path(__file__).parents[4]
COMMON = [f"com{first}{second}" for first in "abcdefghijklmnopqrs" for second in "abcdefghijklmnopqrs"]
LATE = ["zkw", "qvx", "rstw", "dog", "gggg", "trk", "trkzz"]
"""trkzz is longer than trk and begins with it; dog has a vowel, gggg is one letter."""


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """Bytes, then merges of COMMON, then of LATE. Their order is that of ranks; each word is a token."""
    plain = train_tokenizer()
    tokens = [token for token, number in sorted(plain.get_vocab().items(), key=lambda item: item[1]) if number < 512]
    merges: list[tuple[str, str]] = []
    for word in ["kw", *COMMON, *LATE]:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        while len(letters) > 1:
            pair = letters[-2], letters[-1]
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            letters[-2:] = ["".join(pair)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", model_max_length=77)


def test_only_whole_late_words_without_a_vowel_are_proposed(tokenizer: CLIPTokenizer) -> None:
    found = rare_tokens(tokenizer, 100, None)
    words = [token.text for token in found]
    assert {"zkw", "qvx", "rstw"} <= set(words)
    assert not {"dog", "gggg", "trkzz"} & set(words)
    assert [token.number for token in found] == sorted((token.number for token in found), reverse=True)
    for token in found:
        assert token_ids(tokenizer, token.text) == [token.number]
        assert token.number >= 2 / 3 * len(tokenizer.get_vocab())
        assert f"token {token.number:,} of" in token.reason
    assert len(rare_tokens(tokenizer, 2, None)) == 2


def test_the_least_trained_embedding_comes_first(tokenizer: CLIPTokenizer) -> None:
    lengths = torch.ones(len(tokenizer.get_vocab()))
    lengths[tokenizer.get_vocab()["qvx</w>"]] = 0.4
    first = rare_tokens(tokenizer, 1, lengths)[0]
    assert first.text == "qvx" and first.reason.endswith("embedding 0.40 of the median")


def test_lengths_are_those_of_the_models_embedding(tiny_model: Path, tmp_path: Path) -> None:
    lengths = embedding_lengths(tiny_model)
    assert lengths is not None
    state = safetensors.torch.load_file(next((tiny_model / "text_encoder").glob("*.safetensors")))
    (rows,) = [value for name, value in state.items() if name.endswith("token_embedding.weight")]
    assert lengths[7].item() == pytest.approx((rows[7].norm() / rows.norm(dim=1).median()).item())
    assert embedding_lengths(tmp_path) is None


def test_a_prompt_of_common_words_is_warned_about(tokenizer: CLIPTokenizer) -> None:
    common = "comaa comab"
    warning = common_words_warning([tokenizer], common, "model")
    assert warning is not None and "finetune doctor tokens --model.source model" in warning
    assert common_words_warning([tokenizer], f"{common} zkw", "model") is None
    assert common_words_warning([tokenizer], f"{common} xyzzyx", "model") is None
