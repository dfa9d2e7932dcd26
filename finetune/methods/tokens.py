"""New tokens and nothing else (Textual Inversion, arXiv 2208.01618)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from finetune.config.optim import OptimConfig
from finetune.config.recipes import TokensConfig, vector_words
from finetune.config.sections import ModelConfig
from finetune.export.tokens import save_tokens, token_differences, token_metadata
from finetune.export.verify import require_equal
from finetune.methods.base import TrainedModel
from finetune.models import family_named
from finetune.models.family import Components, ModelFamily, ModelSource, Network
from finetune.models.interfaces import Tokenizer
from finetune.models.loading.components import find_family
from finetune.models.parts import Part
from finetune.models.text.tokens import TokenEmbedding, add_tokens, drawn_like, spread, token_ids
from finetune.optim.groups import ParamGroup


@dataclass(frozen=True)
class TextualInversion:
    """Vectors for new words, trained with the model's own loss. The loss is equation 2 of the paper."""

    config: TokensConfig
    starts: tuple[tuple[tuple[int, ...], ...], ...]
    """For each text encoder and token, the numbers of the tokens that it starts from; empty for a random start."""
    alters_weights = False
    exports_all = False

    @property
    def parts(self) -> tuple[Part, ...]:
        return ("denoiser", "text_encoders")

    @staticmethod
    def from_config(config: TokensConfig, model: ModelConfig) -> "TextualInversion":
        """Return the method for a model's tokenizers. Raises ValueError, before any weights are read, where a tokenizer
        knows a name already or does not know a word to start from."""
        source = ModelSource.from_config(model)
        family = family_named(find_family(source, model.family))
        if family.no_new_tokens is not None:
            raise ValueError(
                f"tokens.names: {family.title} learns no new tokens: {family.no_new_tokens}. Use recipes.lora."
            )
        tokenizers = family.tokenizers(source)
        if len(tokenizers) != len(family.token_keys):
            raise ValueError(
                f"tokens.names: {family.title} has {len(tokenizers)} text encoders, expected {len(family.token_keys)}; "
                "new tokens are not learned for it."
            )
        texts = config.init or ("",) * len(config.names)
        for tokenizer in tokenizers:
            refuse_known_names(config, tokenizer)
            refuse_unknown_words(config, tokenizer)
        starts = (tuple(tuple(token_ids(tokenizer, text)) for text in texts) for tokenizer in tokenizers)
        return TextualInversion(config, tuple(starts))

    @property
    def words(self) -> list[str]:
        """The tokenizers' new words, token by token."""
        return [word for name in self.config.names for word in vector_words(name, self.config.num_vectors)]

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        return []  # names and words were checked with the tokenizer

    def network(self, family: ModelFamily, components: Components) -> Network:
        """Give the components' tokenizers and text encoders the new tokens."""
        self.add_to(components)
        return Network(family, components.denoiser, components.text_encoders)

    def add_to(self, components: Components) -> None:
        """Add the tokens, as zeros, to tokenizers and text encoders."""
        for tokenizer, text_encoder in zip(components.tokenizers, components.text_encoders, strict=True):
            add_tokens(tokenizer, text_encoder, self.words)

    @torch.no_grad()
    def attach(self, network: Network, seed: int) -> None:
        num = self.config.num_vectors
        for number, embedding in enumerate(token_embeddings(network).values()):
            table = embedding.table.weight
            for place, (name, start) in enumerate(zip(self.config.names, self.starts[number], strict=True)):
                of_encoder = f"{name} {number}" if number else name  # no name has a space
                vectors = spread(table[list(start)], num) if start else drawn_like(table, num, seed, of_encoder)
                embedding.rows[place * num : (place + 1) * num] = vectors
            embedding.rows.requires_grad_(True)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        """Return the one group, without decay. Decay would pull the vectors to the origin, where no word is."""
        rows = [embedding.rows for embedding in token_embeddings(network).values()]
        return [ParamGroup("tokens", rows, self.config.lr or config.lr, weight_decay=0.0, is_table=True)]

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write the files of each token for diffusers and for other tools. A1111, Forge and ComfyUI read
        `embeddings/TOKEN.safetensors`, diffusers `embeddings/TOKEN/learned_embeds.safetensors` (learned_embeds_2 for a
        second text encoder)."""
        embeddings = token_embeddings(model.network)
        tables = [model.state[f"{name}.rows"].float().split(self.config.num_vectors) for name in embeddings]
        vectors = dict(zip(self.config.names, zip(*tables, strict=True), strict=True))
        norms = [float(part.table.weight.float().norm(dim=1).median()) for part in embeddings.values()]
        spec = model.family.model_spec(model.components, model.objective)
        metadata = {
            name: token_metadata(name, parts, self.config, model.config, model.facts, spec, norms)
            for name, parts in vectors.items()
        }
        files = save_tokens(model.family, vectors, metadata, folder / "embeddings")
        differences = token_differences(model.family, model.source, vectors, files)
        require_equal(differences)
        return differences


def token_embeddings(network: nn.Module) -> dict[str, TokenEmbedding]:
    """Return the modules of a network with new tokens, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, TokenEmbedding)}


def refuse_known_names(config: TokensConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError that names every token that the tokenizer has already."""
    words = {word for name in config.names for word in (*vector_words(name, config.num_vectors), f"{name}_1")}
    vocabulary = tokenizer.get_vocab()
    if known := sorted(word for word in words if word in vocabulary or len(tokenizer.tokenize(word)) == 1):
        raise ValueError(
            f"tokens.names: the model's tokenizer knows {', '.join(known)} already, expected new words. Choose another "
            f"name, best in angle brackets: <{known[0].strip('<>')}-new>; a known word is taught by recipes.lora alone."
        )


def refuse_unknown_words(config: TokensConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError for start words that the tokenizer splits."""
    pieces = [tokenizer.tokenize(word) for text in config.init for word in text.split()]
    apart = [
        "".join(found).replace("</w>", " ").strip() + f" ({' + '.join(found)})" for found in pieces if len(found) != 1
    ]
    if apart:
        raise ValueError(
            f"tokens.init: the model's tokenizer takes apart {', '.join(apart)}, expected words that it has whole, "
            "with nothing but spaces between them. Choose plainer words."
        )
