"""The options of the recipes that adapt a model, each TrainConfig with the section of its method; no torch here."""

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
class FullTrainConfig(TrainConfig):
    """Fine-tune all weights of the denoiser."""
