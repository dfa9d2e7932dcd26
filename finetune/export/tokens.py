"""New tokens as files for diffusers, A1111, Forge and ComfyUI.

They are reloaded and compared. All have the vectors [V D] of one token in float32; a model with several text encoders
has some for each. diffusers reads the token's name from the file, and one file per text encoder; the others use the
file's name.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor

from finetune.config.recipes import TokensConfig, token_file_name, vector_words
from finetune.config.train import TrainConfig
from finetune.export.metadata import RunFacts, last_part
from finetune.export.single_file import write_tensors
from finetune.export.verify import errors_only, prediction_for, relative_difference
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.prompts import Prompts
from finetune.models.text.tokens import add_tokens

DIFFUSERS_FILES = "learned_embeds.safetensors", "learned_embeds_2.safetensors"
"""One file per text encoder; `load_textual_inversion(FOLDER)` searches for the first."""
PROMPT = "a red house, {}"  # short enough for any model
Vectors = Mapping[str, Sequence[Tensor]]
"""The vectors [V D] of each token by name: one tensor per text encoder."""


class TokenPipeline(Protocol):
    """A pipeline of diffusers that reads new tokens."""

    def load_textual_inversion(self, file: str | Tensor, /, **options: object) -> None: ...


def token_metadata(
    name: str,
    vectors: Sequence[Tensor],
    tokens: TokensConfig,
    config: TrainConfig,
    facts: RunFacts,
    model: Mapping[str, str],
    median_norms: Sequence[float],
) -> dict[str, str]:
    """Return a token's metadata: ModelSpec 1.0.1 and our own fields. No loader needs ours. `model` are the fields of
    `ModelFamily.model_spec`, `median_norms` the median length of each text encoder's original vectors."""
    resolution, quantization = config.data.resolution, config.model.quantization
    norms = [" ".join(f"{norm:.4g}" for norm in rows.norm(dim=1).tolist()) for rows in vectors]
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": model["modelspec.architecture"].rpartition("/")[0] + "/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.title": token_file_name(name),
        "modelspec.date": datetime.fromtimestamp(int(facts.finished_at), UTC).isoformat(),
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.trigger_phrase": name,
        "modelspec.prediction_type": model["modelspec.prediction_type"],
        "token.name": name,
        "token.num_vectors": len(vectors[0]),
        "token.init": tokens.init[tokens.names.index(name)] if tokens.init else "",
        "token.norms": " / ".join(norms),
        "token.median_norm_of_model": " / ".join(f"{norm:.4g}" for norm in median_norms),
        "token.steps": facts.steps,
        "token.learning_rate": tokens.lr or config.optim.lr,
        "token.seed": config.seed,
        "token.num_train_images": facts.num_train_images,
        "token.dataset": last_part(facts.dataset_location),
        "token.dataset_fingerprint": facts.dataset_fingerprint,
        "token.base_model": last_part(config.model.source),
        "token.base_weights_sha256": facts.base_sha256,
        **({} if quantization == "none" else {"token.base_weights_quantization": quantization}),
    }
    return {key: str(value) for key, value in fields.items()}


def save_tokens(
    family: ModelFamily, vectors: Vectors, metadata: Mapping[str, dict[str, str]], folder: Path
) -> dict[Path, str]:
    """Write the files of every token; return the token of each path. They are FOLDER/TOKEN.safetensors, and
    FOLDER/TOKEN/learned_embeds.safetensors for each text encoder."""
    written = {}
    for name, parts in vectors.items():
        if not all(bool(rows.isfinite().all()) for rows in parts):
            raise ValueError(f"export: {name} holds values that are not finite. Export an earlier checkpoint.")
        stem = token_file_name(name)
        for file, rows in zip(DIFFUSERS_FILES, parts, strict=False):
            written[write_tensors({name: rows}, metadata[name], folder / stem / file)] = name
        shared = dict(zip(family.token_keys, parts, strict=True))
        written[write_tensors(shared, metadata[name], folder / f"{stem}.safetensors")] = name
    return written


def token_differences(
    family: ModelFamily, source: ModelSource, vectors: Vectors, files: Mapping[Path, str]
) -> dict[Path, float]:
    """Return ||trained - file|| / ||trained|| by path, for a prompt.

    It is the largest of the text encoders' and the denoiser's output. The trained side is the fresh base model with the
    vectors beside its tables, as they were trained. The files of each layout go through `load_textual_inversion` into
    another fresh copy, whose own `encode_prompt` encodes a prompt of allowed length.
    """
    with torch.random.fork_rng(devices=[]):
        components = with_vectors(family, source, vectors)
        trained = {name: outputs(family, components, encoded(family, components, name)) for name in vectors}
        differences = {}
        for is_shared in (False, True):
            chosen = {path: name for path, name in files.items() if is_shared == (path.name not in DIFFUSERS_FILES)}
            components = family.load(source)
            pipeline = family.pipeline(components)
            for path, name in chosen.items():
                with errors_only():
                    load_token(family, components, pipeline, path, name)
            for path, name in chosen.items():
                prompts = encoded(family, components, name)
                if trained[name][0].shape[1] <= components.tokenizers[0].model_max_length:
                    with torch.no_grad():
                        prompts = family.prompts_by(pipeline, PROMPT.format(name))
                found = outputs(family, components, prompts)
                differences[path] = max(map(relative_difference, trained[name], found))
    return differences


def load_token(family: ModelFamily, components: Components, pipeline: TokenPipeline, path: Path, name: str) -> None:
    """Load a file into the pipeline as a user would. Those for diffusers are of one text encoder each."""
    encoders = list(zip(components.text_encoders, components.tokenizers, strict=True))
    file: dict[str, object] = {"weight_name": path.name, "use_safetensors": True}
    if path.name in DIFFUSERS_FILES:
        text_encoder, tokenizer = encoders[DIFFUSERS_FILES.index(path.name)]
        pipeline.load_textual_inversion(str(path.parent), text_encoder=text_encoder, tokenizer=tokenizer, **file)
    elif len(encoders) == 1:
        pipeline.load_textual_inversion(str(path.parent), token=name, **file)
    else:
        tensors = safetensors.torch.load_file(path)
        for key, (text_encoder, tokenizer) in zip(family.token_keys, encoders, strict=True):
            pipeline.load_textual_inversion(tensors[key], token=name, text_encoder=text_encoder, tokenizer=tokenizer)


def with_vectors(family: ModelFamily, source: ModelSource, vectors: Vectors) -> Components:
    """Return the fresh base model with the tokens as trained."""
    components = family.load(source)
    words = [word for name, parts in vectors.items() for word in vector_words(name, len(parts[0]))]
    for number, tokenizer in enumerate(components.tokenizers):
        embedding = add_tokens(tokenizer, components.text_encoders[number], words)
        embedding.rows.data.copy_(torch.cat([parts[number] for parts in vectors.values()]))
    return components


@torch.no_grad()
def encoded(family: ModelFamily, components: Components, name: str) -> Prompts:
    """Encode a prompt with the token; parts are float32 on the CPU."""
    for text_encoder in components.text_encoders:
        text_encoder.eval()
    tokens = family.tokenize(components.tokenizers, [PROMPT.format(name)])
    return family.encode_prompts(components.text_encoders, tokens)


def outputs(family: ModelFamily, components: Components, prompts: Prompts) -> list[Tensor]:
    """Return the text encoders' outputs, embeddings first, and the denoiser's."""
    texts = [prompts.embeddings] if prompts.pooled is None else [prompts.embeddings, prompts.pooled]
    return [*texts, prediction_for(family, components, prompts)]
