"""Files of new tokens, read into tokenizers and text encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from finetune.config.recipes import vector_words
from finetune.export.tokens import DIFFUSERS_FILES
from finetune.models.family import Components, ModelFamily
from finetune.models.text.tokens import add_tokens

A1111_KEY = "emb_params"


def load_tokens(family: ModelFamily, components: Components, paths: Sequence[Path]) -> dict[str, str]:
    """Add the files' tokens to the model; return each file's word. Raises ValueError for one that does not
    fit."""
    if paths and family.no_new_tokens is not None:
        raise ValueError(f"embedding: {family.title} takes no new tokens: {family.no_new_tokens}. Remove the option.")
    vectors: dict[str, list[Tensor]] = {}
    words: dict[str, str] = {}
    for path in paths:
        word, parts = read_token(family, path)
        check_vectors(components, path, word, parts)
        if word in vectors:
            raise ValueError(f"embedding: {path} is of the word {word}, as another file is. Keep one.")
        vectors[word], words[str(path)] = parts, word
    if vectors:
        added = [name for word, parts in vectors.items() for name in vector_words(word, len(parts[0]))]
        for number, (tokenizer, encoder) in enumerate(
            zip(components.tokenizers, components.text_encoders, strict=True)
        ):
            embedding = add_tokens(tokenizer, encoder, added)
            embedding.rows.data.copy_(torch.cat([parts[number] for parts in vectors.values()]))
    return words


def read_token(family: ModelFamily, path: Path) -> tuple[str, list[Tensor]]:
    """Read a token's word, and its vectors [V D] for each text encoder. A folder has diffusers' files, one for each."""
    files = [path / name for name in DIFFUSERS_FILES if (path / name).is_file()] if path.is_dir() else [path]
    if not files:
        raise ValueError(f"embedding: {path} has no {DIFFUSERS_FILES[0]}, expected a file of a new token.")
    tensors: dict[str, Tensor] = {}
    metadata: Mapping[str, str] = {}
    for number, file in enumerate(files):
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                for key in opened.keys():  # noqa: SIM118
                    tensors[key if number == 0 else f"{key}/{number}"] = opened.get_tensor(key).float()
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"embedding: {file} is not a readable safetensors file ({error}).") from error
    keys, shared = list(tensors), set(family.token_keys) | {A1111_KEY}
    word = metadata.get("token.name", path.stem) if shared & set(keys) else keys[0]
    ordered = [tensors[key] for key in (family.token_keys if set(family.token_keys) <= set(keys) else keys)]
    return word, [vector[None] if vector.dim() == 1 else vector for vector in ordered]


def check_vectors(components: Components, path: Path, word: str, parts: Sequence[Tensor]) -> None:
    """Raise ValueError for vectors of another model, or a known word."""
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in components.text_encoders]
    found = [part.shape[-1] for part in parts]
    if found != widths or any(part.dim() != 2 or len(part) != len(parts[0]) for part in parts):
        raise ValueError(
            f"embedding: {path.name} has vectors of the widths {found}, expected {widths} for this base model. Is it "
            "made for another one?"
        )
    taken = [name for name in vector_words(word, len(parts[0])) if name in components.tokenizers[0].get_vocab()]
    if taken or not word.strip():
        raise ValueError(f"embedding: {path.name}: the word {word} is a token already. Rename the file.")
