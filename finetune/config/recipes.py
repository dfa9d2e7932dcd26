"""Options of the recipes that adapt a model; torch-free. Each is TrainConfig with the section of its method."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from finetune.config.facts import Count, Positive, Resume
from finetune.config.lora import LoRAConfig
from finetune.config.mask import MaskConfig
from finetune.config.optim import OptimConfig
from finetune.config.outputs import CheckpointConfig, OutputConfig
from finetune.config.sections import LoopConfig, ModelConfig
from finetune.config.train import TrainConfig, all_weights


@dataclass(frozen=True)
class TokensConfig:
    """New tokens, each with its own vectors (Textual Inversion, arXiv 2208.01618). The vectors come before the text
    encoder. While they train, captions are encoded at every step, whatever cache.text is."""

    names: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """New tokens that are in captions or data.template, e.g. "<ink-style>"; none trains no tokens."""
    num_vectors: Annotated[Count, Resume.FIXED] = 1
    """Vectors of each token; more can learn more, and use as many of a prompt's 75 places."""
    init: tuple[str, ...] = ()
    """Words each token starts from, one text per token; several words are averaged where there are fewer vectors,
    spread in order where there are more. None starts at random, within the spread of the model's own tokens."""
    lr: Positive | None = None
    """Peak learning rate of the new vectors, which never decay; none takes optim.lr."""

    def problems(self) -> Iterator[str]:
        for name in self.names:
            if not re.fullmatch(r"[^\s,{}]+", name) or name != name.lower() or not re.search(r"[a-z0-9]", name):
                yield (
                    f'tokens.names: got "{name}", expected lower-case letters or digits without spaces, commas and '
                    "braces, best in angle brackets, e.g. <ink-style>."
                )
        for place, name in enumerate(self.names):
            for other in self.names[:place] + self.names[place + 1 :]:
                if name in other and (name != other or place == self.names.index(name)):
                    yield f'tokens.names: "{name}" is part of "{other}", so a caption with one has both.'
        files = [token_file_name(name) for name in self.names]
        doubled = sorted({file for file in files if files.count(file) > 1})
        yield from (f"tokens.names: {file}.safetensors would be the file of two tokens." for file in doubled)
        if self.init and len(self.init) != len(self.names):
            yield f"tokens.init: got {len(self.init)} for tokens.names {len(self.names)}, expected one per token."
        if any(not text.strip() for text in self.init):
            yield "tokens.init: got an empty text, expected words that the model knows."
        if not self.names and (self.num_vectors != 1 or self.lr is not None):
            yield "tokens.num_vectors, tokens.lr: given without tokens.names. Name the tokens or remove them."


def vector_words(name: str, num_vectors: int) -> list[str]:
    """Return the tokenizer's words for a token's vectors. They are NAME, NAME_1, NAME_2, ... (diffusers' spelling)."""
    return [name, *(f"{name}_{number}" for number in range(1, num_vectors))]


def token_file_name(name: str) -> str:
    """Return the name of a token's exported file, without suffix. A1111 and ComfyUI use it as the token."""
    return re.sub(r"[^a-z0-9_.-]+", "_", name.strip("<>[]()")).strip("._") or "token"


def token_rates(optim: OptimConfig, tokens: TokensConfig) -> Iterator[str]:
    """Refuse a rate for tokens where the optimizer has one rate."""
    if optim.facts.finds_lr and tokens.lr not in (None, optim.lr):
        yield f"tokens.lr: given with {optim.name}, which knows one rate only. Remove it."


def needs_tokens(tokens: TokensConfig) -> Iterator[str]:
    """Refuse textual inversion without a token."""
    if not tokens.names:
        yield 'tokens.names: missing, expected the new token. Give --tokens.names "<NAME>".'


def trains_tokens_alone(train: LoopConfig) -> Iterator[str]:
    """Refuse to train the text encoder in textual inversion."""
    if train.text_encoder:
        yield (
            "train.text_encoder: got true, but textual inversion trains nothing but the new tokens. Remove it, or "
            "use recipes.lora with --tokens.names, which trains both."
        )


def no_whole_model(output: OutputConfig) -> Iterator[str]:
    """Refuse one file of all weights where adapters are exported."""
    if output.one_file:
        yield (
            "output.one_file: got true, but adapters and tokens have files of their own. Remove it; finetune lora "
            "merge and finetune export write a whole model with them."
        )


def no_small_files(checkpoint: CheckpointConfig) -> Iterator[str]:
    """Refuse small files where whole weights are trained."""
    if checkpoint.export:
        yield (
            "checkpoint.export: got true, but where all weights are trained a checkpoint has no small file. Remove it; "
            "output.folder/export is written at the end, and evaluate.export chooses the step."
        )


def files_of_adapters(checkpoint: CheckpointConfig, lora: LoRAConfig) -> Iterator[str]:
    """Refuse files of checkpoints that need the base model's weights."""
    given = {"lora.dora": lora.dora, "lora.init": lora.init}
    written = {"lora.dora": (False,), "lora.init": ("default", "gaussian", "orthogonal")}
    for key, value in given.items():
        if checkpoint.export and value not in written[key]:
            yield (
                f"checkpoint.export: got true with {key} {str(value).lower()}, whose files are written and compared "
                "beside the base model's weights, at the end alone. Remove it, or train adapters without."
            )


def adapters(optim: OptimConfig, model: ModelConfig, mask: MaskConfig, lora: LoRAConfig) -> Iterator[str]:
    """Refuse contradictions of adapters. Most concern starts that take a part out of the weights."""
    if lora.plus_ratio != 1 and optim.facts.finds_lr:
        yield f"lora.plus_ratio: given with {optim.name}, which knows one rate only. Remove it."
    if lora.init not in ("pissa", "olora"):
        return
    if mask.prior_weight > 0:
        yield (
            f"mask.prior_weight: got {mask.prior_weight}, which compares with the model without adapters, but "
            f"lora.init {lora.init} alters its weights. Remove one of them."
        )
    if model.quantization != "none":
        yield (
            f"lora.init: got {lora.init} with model.quantization {model.quantization}; it takes a part out of the "
            "weights, which quantised ones cannot give exactly. Use another lora.init, or remove model.quantization."
        )
    if model.offload:
        yield (
            f"lora.init: got {lora.init} with model.offload true; it takes a part out of the weights, and those in "
            "host memory stay as they are. Use another lora.init, or remove model.offload."
        )


def prior_and_tokens(mask: MaskConfig, tokens: TokensConfig) -> Iterator[str]:
    """Refuse to compare with a base model whose text encoder tokens alter."""
    if mask.prior_weight > 0 and tokens.names:
        yield (
            f"mask.prior_weight: got {mask.prior_weight}, which compares with the model without adapters, but "
            "tokens.names alters its text encoder. Remove one of them."
        )


def no_prior(mask: MaskConfig) -> Iterator[str]:
    """Refuse to compare with a base model that is not kept."""
    if mask.prior_weight > 0:
        yield (
            f"mask.prior_weight: got {mask.prior_weight}, but where all weights are trained there is no "
            "base model to compare with. Remove it, or train an adapter."
        )


@dataclass(frozen=True)
class AdaptConfig(TrainConfig):
    """The options of every recipe that adapts a model to images."""

    goal: Annotated[Literal["style", "subject"] | None, Resume.FREE] = None
    """What the images show; the run then proposes the steps, rank and rates that are not given, with reasons."""


@dataclass(frozen=True)
class LoRATrainConfig(AdaptConfig):
    """Adapt a model with LoRA. With tokens.names, learn new tokens in the same run (pivotal tuning)."""

    lora: LoRAConfig = field(default_factory=LoRAConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)

    rules = (*TrainConfig.rules, token_rates, prior_and_tokens, adapters, no_whole_model, files_of_adapters)


@dataclass(frozen=True)
class TextualInversionTrainConfig(TrainConfig):
    """Learn new tokens and leave the model as it is. optim.lr is the rate of their vectors."""

    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4))
    tokens: TokensConfig = field(default_factory=TokensConfig)

    rules = (*TrainConfig.rules, token_rates, needs_tokens, trains_tokens_alone, no_whole_model)


@dataclass(frozen=True)
class FullConfig:
    """Choice of the trained weights by regular expressions. They are searched for in the weights' names, which begin
    with denoiser or text_encoders.0, as in checkpoints/step_*/trained.safetensors."""

    train: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """Patterns of the weights that train, e.g. attn2; none trains all."""
    freeze: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """Patterns of those among them that stay frozen, e.g. denoiser\\.down_blocks."""

    def problems(self) -> Iterator[str]:
        for key, patterns in (("train", self.train), ("freeze", self.freeze)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    yield f'full.{key}: "{pattern}" is not a regular expression: {error}.'


@dataclass(frozen=True)
class FullTrainConfig(AdaptConfig):
    """Fine-tune all weights of the denoiser, or some of them."""

    full: FullConfig = field(default_factory=FullConfig)

    rules = (*TrainConfig.rules, all_weights, no_prior, no_small_files)
