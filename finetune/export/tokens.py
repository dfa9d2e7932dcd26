"""New tokens as files: for diffusers, and for A1111, Forge and ComfyUI; reloaded and compared.

Both hold the vectors [V D] of one token in float32. diffusers takes the token's name from the file; the others call it
what the file is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.config_methods import token_file_name, vector_words
from finetune.export.metadata import last_part
from finetune.export.single_file import write_tensors
from finetune.export.verify import errors_only, prediction_for, relative_difference
from finetune.models.base import Components, ModelFamily, ModelSource
from finetune.models.tokens import add_tokens

DIFFUSERS_FILE = "learned_embeds.safetensors"
"""What `load_textual_inversion(FOLDER)` looks for."""
SHARED_KEY = "emb_params"
"""The tensor that A1111, Forge, ComfyUI and sd-scripts read."""


@dataclass(frozen=True)
class TokenFacts:
    """A finished run, as far as a token's file tells of it."""

    base_sha256: str
    model_location: str
    model_spec: Mapping[str, str]
    init: Mapping[str, str]
    """The words that a token started from, by token; absent for a random start."""
    steps: int
    lr: float
    seed: int
    num_train_images: int
    dataset_location: str
    dataset_fingerprint: str
    resolution: int
    median_norm: float
    """Median length of the vectors that the model came with."""
    finished_at: float
    """Seconds since 1970 (UTC)."""


def token_metadata(name: str, vectors: Tensor, facts: TokenFacts) -> dict[str, str]:
    """Returns what a token's file says of itself: ModelSpec 1.0.1 and fields of ours, which no loader needs."""
    norms = " ".join(f"{norm:.4g}" for norm in vectors.norm(dim=1).tolist())
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": facts.model_spec["modelspec.architecture"].rpartition("/")[0] + "/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.title": token_file_name(name),
        "modelspec.date": datetime.fromtimestamp(int(facts.finished_at), UTC).isoformat(),
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "modelspec.trigger_phrase": name,
        "modelspec.prediction_type": facts.model_spec["modelspec.prediction_type"],
        "token.name": name,
        "token.num_vectors": len(vectors),
        "token.init": facts.init.get(name, ""),
        "token.norms": norms,
        "token.median_norm_of_model": f"{facts.median_norm:.4g}",
        "token.steps": facts.steps,
        "token.learning_rate": facts.lr,
        "token.seed": facts.seed,
        "token.num_train_images": facts.num_train_images,
        "token.dataset": last_part(facts.dataset_location),
        "token.dataset_fingerprint": facts.dataset_fingerprint,
        "token.base_model": last_part(facts.model_location),
        "token.base_weights_sha256": facts.base_sha256,
    }
    return {key: str(value) for key, value in fields.items()}


def save_tokens(vectors: Mapping[str, Tensor], facts: TokenFacts, folder: Path) -> dict[Path, str]:
    """Writes FOLDER/TOKEN.safetensors and FOLDER/TOKEN/learned_embeds.safetensors for each token; returns the token of
    each path."""
    written = {}
    for name, rows in vectors.items():
        if not bool(rows.isfinite().all()):
            raise ValueError(f"export: {name} holds values that are not finite. Export an earlier checkpoint.")
        metadata = token_metadata(name, rows, facts)
        stem = token_file_name(name)
        for path, key in ((folder / stem / DIFFUSERS_FILE, name), (folder / f"{stem}.safetensors", SHARED_KEY)):
            written[write_tensors({key: rows}, metadata, path)] = name
    return written


def token_differences(
    family: ModelFamily, source: ModelSource, vectors: Mapping[str, Tensor], files: Mapping[Path, str]
) -> dict[Path, float]:
    """Returns ||trained - file|| / ||trained|| by path: the larger one of the text encoder's and the denoiser's output
    for a prompt with the file's token.

    The trained side is the fresh base model with the vectors beside its table, as they were trained. The files of each
    layout go through `load_textual_inversion` into another fresh copy, whose own `encode_prompt` reads the prompt where
    it is not too long for that.
    """
    with torch.random.fork_rng(devices=[]):
        components = with_vectors(family, source, vectors)
        trained = {name: outputs(family, components, name) for name in vectors}
        differences = {}
        for is_shared in (False, True):
            chosen = {path: name for path, name in files.items() if is_shared == (path.name != DIFFUSERS_FILE)}
            components = family.load(source)
            pipeline = family.pipeline(components)
            for path, name in chosen.items():
                token: dict[str, Any] = {"token": name, "weight_name": path.name} if is_shared else {}
                with errors_only():
                    pipeline.load_textual_inversion(str(path.parent), use_safetensors=True, **token)
            for path, name in chosen.items():
                loaded = outputs(family, components, name)
                if trained[name][0].shape[1] <= components.tokenizers[0].model_max_length:
                    with torch.no_grad():
                        embeddings, _ = pipeline.encode_prompt(prompt_with(name), torch.device("cpu"), 1, False)
                    loaded = embeddings, prediction_for(family, components, {"embeddings": embeddings})
                differences[path] = max(map(relative_difference, trained[name], loaded))
    return differences


def with_vectors(family: ModelFamily, source: ModelSource, vectors: Mapping[str, Tensor]) -> Components:
    """Returns the fresh base model with the tokens as training has them."""
    components = family.load(source)
    words = [word for name, rows in vectors.items() for word in vector_words(name, len(rows))]
    embedding = add_tokens(components.tokenizers[0], components.text_encoders[0], words)
    embedding.rows.data.copy_(torch.cat(list(vectors.values())))
    return components


def prompt_with(name: str) -> str:
    """Returns a prompt with a token in it, short enough for models of few tokens."""
    return f"a red house, {name}"


@torch.no_grad()
def outputs(family: ModelFamily, components: Components, name: str) -> tuple[Tensor, Tensor]:
    """Returns the text encoder's and the denoiser's output for a prompt with the token; parts are float32 on the
    CPU."""
    for text_encoder in components.text_encoders:
        text_encoder.eval()
    tokens = family.tokenize(components.tokenizers, [prompt_with(name)])
    embeddings = family.encode_prompts(components.text_encoders, tokens)["embeddings"]
    return embeddings, prediction_for(family, components, {"embeddings": embeddings})
