"""The options of the recipes that adapt a model, each TrainConfig with the section of its method; no torch here."""

import re
from dataclasses import dataclass, field

from finetune.config import TrainConfig


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    rank: int = 16
    """Rank of the update matrices."""
    alpha: float | None = None
    """Scale of the update is alpha / rank; none takes the rank, so that the scale is 1."""
    dropout: float = 0.0
    """Dropout on the adapters' input."""
    targets: tuple[str, ...] = ()
    """Names of the adapted layers (a module's name ends with one of them); none takes the family's choice."""

    def problems(self) -> list[str]:
        found = []
        if self.rank < 1:
            found.append(f"lora.rank: got {self.rank}, expected 1 or more.")
        if self.alpha is not None and self.alpha <= 0:
            found.append(f"lora.alpha: got {self.alpha}, expected a number above 0, or none.")
        if not 0 <= self.dropout < 1:
            found.append(f"lora.dropout: got {self.dropout}, expected a share from 0 to below 1.")
        return found


@dataclass(frozen=True)
class LoRATrainConfig(TrainConfig):
    """Adapt a model with LoRA."""

    lora: LoRAConfig = field(default_factory=LoRAConfig)


@dataclass(frozen=True)
class FullConfig:
    """Which of the weights are trained, by regular expressions that are searched for in their names.

    Names begin with denoiser or text_encoders.0, as in checkpoints/step_*/trained.safetensors.
    """

    train: tuple[str, ...] = ()
    """Patterns of the weights that train, e.g. attn2; none trains all."""
    freeze: tuple[str, ...] = ()
    """Patterns of those among them that stay as they are, e.g. denoiser\\.down_blocks."""

    def problems(self) -> list[str]:
        found = []
        for key, patterns in (("train", self.train), ("freeze", self.freeze)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    found.append(f'full.{key}: "{pattern}" is no regular expression: {error}.')
        return found


@dataclass(frozen=True)
class FullTrainConfig(TrainConfig):
    """Fine-tune all weights of the denoiser, or some of them."""

    full: FullConfig = field(default_factory=FullConfig)
