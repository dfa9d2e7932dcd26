"""The frozen base model of a scored run, with its measures."""

from dataclasses import dataclass, field

from finetune.evaluate.features.model import FrozenModel
from finetune.evaluate.measure import FeatureSet, Yardstick
from finetune.models.parts import ModelParts
from finetune.models.prompts import Condition


@dataclass(eq=False)
class Instruments:
    """The base model and its measures."""

    parts: ModelParts
    """Of the base model."""
    is_shared: bool
    """True where its denoiser is the one that trains, without adapters."""
    model: FrozenModel
    features: FeatureSet
    prompts: dict[str, Condition] = field(default_factory=dict[str, Condition])
    """By text of the grid, for the weights that train."""
    base_prompts: dict[str, Condition] = field(default_factory=dict[str, Condition])
    """The same for the base model."""
    yardstick: Yardstick | None = None
    """On the main process alone."""
